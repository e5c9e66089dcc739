"""The task greys."""

from collections.abc import Mapping, Sequence

from PIL import Image
from tokensieve import Registry, hookimpl
from tokensieve.tasks import Answer, Sample, Task


class Greys(Task):
    """Asks whether a grey square is light or dark."""

    name = "greys"
    metric: str = "correct"
    side: int = 96

    def samples(self) -> Sequence[Sample]:
        """Return the questions, always the same ones."""
        return [
            Sample(str(g), "Light or dark?", str(g), ("light" if g > 127 else "dark",))
            for g in range(0, 256, 5)
        ]

    def picture(self, sample: Sample) -> Image.Image:
        """Return the picture of a question."""
        return Image.new("RGB", (self.side, self.side), (int(sample.image),) * 3)

    def grade(self, sample: Sample, answer: Answer, unpruned: Answer | None) -> Mapping[str, float]:
        """Return 1 for the right answer, else 0."""
        return {"correct": float(answer.text.lower().strip(".") in sample.answers)}


@hookimpl
def register_tasks(registry: Registry) -> None:
    """Add the task."""
    registry.add_task(Greys)
