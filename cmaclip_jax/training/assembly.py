"""The parts of a run that its config decides, each made once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cmaclip_jax.evaluation.evaluator import make_predict_step
from cmaclip_jax.models.objectives import Batch, Objective
from cmaclip_jax.parallel.mesh import host_rows
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.training.optimizer import make_optimizer
from cmaclip_jax.training.state import TrainState, create_state, state_template
from cmaclip_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly:
    """What training, evaluating, planning and measuring share of a run.

    Parts are shapes and functions. Only `create_state` and `to_answer` allocate arrays.

    config: of the whole run.
    example: a batch of one row, from which the shapes of the parameters follow.
    """

    config: ConfigDict
    mesh: Mesh
    objective: Objective
    example: Batch

    @functools.cached_property
    def parameter_shapes(self) -> Any:
        """The shapes of all parameters, as a tree."""
        return jax.eval_shape(self.objective.init, jax.random.key(0), self.example)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer; UserError where a rule of config.train matches no parameter."""
        return make_optimizer(self.config.train, self.parameter_shapes)

    def check(self) -> None:
        """Builds the shapes and the optimizer, so that a config that cannot train fails early.

        Raises:
          UserError: the model cannot be built, or a rule of config.train matches no parameter.
        """
        _ = self.optimizer

    @functools.cached_property
    def _template(self) -> tuple[Callable[[], TrainState], TrainState]:
        averages = self.config.train.ema > 0
        return state_template(
            self.objective, self.optimizer, self.example, averages, self.config.seed
        )

    @property
    def init_state(self) -> Callable[[], TrainState]:
        """Draws the first state, which depends on the seed alone."""
        return self._template[0]

    @property
    def state_shapes(self) -> TrainState:
        """The shapes of a state: parameters, optimizer and average."""
        return self._template[1]

    def create_state(self) -> TrainState:
        """The first state, every leaf on its own devices."""
        return create_state(self.init_state, self.state_shapes, self.mesh)

    @functools.cached_property
    def train_step(self) -> Callable:
        """`(state, batch) -> (state, figures)`, jitted over the mesh."""
        settings, seed = self.config.train, self.config.seed
        return make_train_step(
            self.objective, self.optimizer, settings, seed, self.mesh, self.state_shapes
        )

    @functools.cached_property
    def predict_step(self) -> jax.stages.Wrapped:
        """`(params, batch) -> outcome`, jitted over the mesh, for parameters laid out to answer."""
        shapes = jax.eval_shape(self.objective.answering_parameters, self.parameter_shapes)
        return make_predict_step(self.objective, self.mesh, shapes)

    def to_answer(self, params: Any) -> Any:
        """The parameters as `predict_step` takes them, on their devices."""
        shapes = jax.eval_shape(self.objective.answering_parameters, params)
        return jax.jit(
            self.objective.answering_parameters, out_shardings=tree_shardings(shapes, self.mesh)
        )(params)

    def rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a batch this host makes: those that its devices hold."""
        return host_rows(self.mesh, batch_size)
