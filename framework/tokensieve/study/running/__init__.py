"""Running the cells of a study: the runner, the engines, and estimates of cost."""
