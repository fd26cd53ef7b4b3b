"""Every reference kind as a slow oracle: ``ORACLES[kind](inputs, **params)`` gives the outputs by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from tests.oracles import kinds_advantages as advantages
from tests.oracles import kinds_basics as basics
from tests.oracles import kinds_policy as policy
from tests.oracles import kinds_rewards as rewards
from tests.oracles import kinds_surrogates as surrogates
from tests.oracles import kinds_weights as weights
from tests.oracles.kinds_basics import Outputs

ORACLES: dict[str, Callable[..., Outputs]] = {"agg": basics.agg}
for module in (advantages, policy, rewards, surrogates, weights):
    for name, function in vars(module).items():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
            ORACLES[name] = function
