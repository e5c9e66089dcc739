from tokensieve.testing import TaskConformance

from greys import Greys


class TestGreys(TaskConformance):
    task = Greys()
