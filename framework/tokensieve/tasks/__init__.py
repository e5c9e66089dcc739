"""Tasks: what a model is asked."""

from tokensieve.models.pictures import Video
from tokensieve.tasks.base import Answer, Sample, Task

__all__ = ["Answer", "Sample", "Task", "Video"]
