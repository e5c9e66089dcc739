"""Tasks: what a model is asked."""

from tokensieve.models.pictures import Images, Video
from tokensieve.tasks.base import Answer, Sample, Task, Turn

__all__ = ["Answer", "Images", "Sample", "Task", "Turn", "Video"]
