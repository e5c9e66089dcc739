"""Tasks: what a model is asked. Plugins bring their own by the hook `register_tasks`."""

from tokensieve.tasks.base import Answer as Answer
from tokensieve.tasks.base import Sample as Sample
from tokensieve.tasks.base import Task as Task
