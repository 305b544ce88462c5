"""The parts of a run that its config decides, each made once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from cmaclip_jax.evaluation.predictor import Predictor
from cmaclip_jax.parallel.mesh import host_rows
from cmaclip_jax.training.optimizer import frozen_parameters, make_optimizer
from cmaclip_jax.training.state import TrainState, create_state, seed_argument, state_template
from cmaclip_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly(Predictor):
    """A predictor that can also be trained.

    Parts are shapes and functions. Only `create_state` and `to_answer` allocate arrays.
    """

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer; UserError where a rule of config.train matches no parameter."""
        return make_optimizer(self.config.train, self.parameter_shapes)

    @functools.cached_property
    def frozen(self) -> Any:
        """A tree of bools: which parameters do not learn."""
        return frozen_parameters(self.config.train, self.parameter_shapes)

    def check(self) -> None:
        """Builds the shapes and the optimizer, so that a config that cannot train fails early.

        Raises:
          UserError: the model cannot be built, or a rule of config.train matches no parameter.
        """
        _ = self.optimizer

    @property
    def seed(self) -> np.ndarray:
        """`config.seed` as the programs take it."""
        return seed_argument(self.config.seed)

    @functools.cached_property
    def _template(self) -> tuple[Callable[[np.ndarray], TrainState], TrainState]:
        averages = self.config.train.ema > 0
        return state_template(self.objective, self.optimizer, self.example, averages, self.frozen)

    def init_state(self) -> TrainState:
        """Draws the first state, which depends on the seed alone."""
        return self._template[0](self.seed)

    @property
    def state_shapes(self) -> TrainState:
        """The shapes of a state: parameters, optimizer and average."""
        return self._template[1]

    def create_state(self) -> TrainState:
        """The first state, every leaf on its own devices."""
        return create_state(self._template[0], self.seed, self.state_shapes, self.mesh)

    @functools.cached_property
    def train_step(self) -> Callable:
        """`(state, batch) -> (state, figures)`, jitted over the mesh."""
        step = make_train_step(
            self.objective, self.optimizer, self.config.train, self.mesh, self.state_shapes
        )
        return functools.partial(step, self.seed)

    def rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a batch this host makes: those that its devices hold."""
        return host_rows(self.mesh, batch_size)
