"""The searches that the studies compare, by the names of their rows."""

from pcsparse.compress.search.amc import AMC
from pcsparse.compress.search.amc_settings import AMCSettings
from pcsparse.compress.search.bisect import Bisection
from pcsparse.compress.search.dynamic_programming import DynamicProgramming
from pcsparse.compress.search.evolution import Evolution
from pcsparse.compress.search.random_search import RandomSearch
from pcsparse.compress.search.task import Method
from pcsparse.compress.search.uniform import FilledUniform, Uniform
from pcsparse.errors import RangeError

METHODS = (
    "uniform",
    "uniform filled",
    "random",
    "bisection",
    "dynamic programming",
    "evolution",
    "amc",
    "amc paper",
    "amc released code",
)
SEEDED = ("random", "evolution", "amc", "amc paper", "amc released code")
"""Those that draw random numbers."""


def method_named(name: str, evaluations: int) -> Method:
    """One of `METHODS`, its schedule laid over the evaluations.

    Raises:
        RangeError: no such method.
    """
    made: dict[str, Method] = {
        "uniform": Uniform(),
        "uniform filled": FilledUniform(),
        "random": RandomSearch(),
        "bisection": Bisection(),
        "dynamic programming": DynamicProgramming(),
        "evolution": Evolution(),
        "amc": AMC(AMCSettings().scaled_to(evaluations)),
        "amc paper": AMC(AMCSettings.paper().scaled_to(evaluations)),
        "amc released code": AMC(AMCSettings.released_code().scaled_to(evaluations)),
    }
    if name not in made:
        raise RangeError(f"there is no search method {name!r}; there are {', '.join(made)}")
    return made[name]
