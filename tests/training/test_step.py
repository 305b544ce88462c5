"""One update: on any mesh, in any number of parts, by any rules, it is the same update."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from support.adapted import adapted_model
from support.small import initial, make_batch, make_model, make_objective, small_config

from cmaclip_jax.config import base_config
from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.mesh import batch_sharding, make_mesh, to_device
from cmaclip_jax.parallel.rules import path_name, tree_shardings
from cmaclip_jax.planning.run import plan_run
from cmaclip_jax.tasks import Task
from cmaclip_jax.training.cpu_adamw import clipped_adam
from cmaclip_jax.training.optimizer import (
    frozen_parameters,
    make_optimizer,
    make_schedule,
    rate_factors,
)
from cmaclip_jax.training.state import create_state, seed_argument, start_from, state_template
from cmaclip_jax.training.step import (
    accumulate,
    averaging_decay,
    interleaved_parts,
    make_train_step,
)


def test_with_fsdp_parameters_travel_and_activations_stay():
    config = small_config()
    config.train.batch_size = config.eval.batch_size = 64
    config.mesh.fsdp = 8
    run = plan_run(config, (Task("a", ("b", "c")),), jax.devices())
    text = run.lower_train().compile().as_text()
    moved = re.findall(r"= (\S+) (?:all-gather|all-reduce|all-to-all)\(", text)
    # Of [B,T,D] nothing goes around with everybody's rows but what the embedding table gets.
    around = [shape for shape in moved if re.match(r"f32\[64,\d+,\d+", shape)]
    assert moved
    assert all(shape.startswith("f32[64,16,") for shape in around)
    assert len(around) <= 2


SEED = seed_argument(0)
SHAPES = [(8, 1, 1), (2, 2, 2)]
MORE_SHAPES = [(1, 8, 1), (1, 1, 8), (2, 4, 1), (4, 1, 2), (1, 2, 4)]


def settings(**fields):
    train = base_config().train
    # Where a gradient is zero but for rounding (a key's bias), Adam would blow rounding up to
    # full steps; a large epsilon keeps it what it is.
    train.update({"steps": 20, "learning_rate": 3e-3, "warmup": 0.1, "epsilon": 1e-3, **fields})
    return train


@functools.cache
def run(shape=(1, 1, 1), contrastive=0.0, adapted=False, **fields):
    """`(losses, states)` of three steps from the same beginning; states[0] is the beginning."""
    model = adapted_model() if adapted else make_model()
    objective, train = make_objective(model, contrastive=contrastive), settings(**fields)
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    optimizer = make_optimizer(train, initial(objective.model))
    frozen = frozen_parameters(train, initial(objective.model))
    init, shapes = state_template(objective, optimizer, make_batch(), train.ema > 0, frozen)
    state = create_state(init, SEED, shapes, mesh)
    step = make_train_step(objective, optimizer, train, mesh, shapes)
    losses, states = [], [jax.tree.map(jnp.copy, state)]
    for index in range(3):
        batch = to_device(make_batch(seed=index), batch_sharding(mesh))
        state, figures = step(SEED, state, batch)
        states.append(jax.tree.map(jnp.copy, state))
        total, count = figures["sums"]["loss"]
        losses.append(float(total) / float(count))
    assert step._cache_size() == 1  # compiled once: what comes out is like what went in
    return losses, states


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize(
    "shape", [*SHAPES, *(pytest.param(shape, marks=pytest.mark.slow) for shape in MORE_SHAPES)]
)
def test_every_mesh_gives_the_curve_of_one_device(shape):
    losses, (*_, state) = run(shape, contrastive=1.0, ema=0.27)
    expected, (*_, expected_state) = run(contrastive=1.0, ema=0.27)
    assert len(set(expected)) == 3
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    assert_close(state.params, expected_state.params, atol=1e-5)
    assert_close(state.ema, expected_state.ema, atol=1e-5)
    kernel = state.params["image"]["stack"]["blocks"]["mlp_up"]["kernel"]  # [L,D,M]
    share = kernel.addressable_shards[0].data.shape
    assert share == (2, 32 // shape[1], 128 // shape[2])
    moments = [
        x
        for p, x in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if path_name(p).endswith("mu/image/stack/blocks/mlp_up/kernel")
    ]
    assert [m.sharding for m in moments] == [kernel.sharding]


@pytest.mark.parametrize(
    ("parts", "shape"), [pytest.param(4, (1, 1, 1), marks=pytest.mark.slow), (2, (2, 2, 1))]
)
def test_accumulation_equals_the_big_batch(parts, shape):
    whole, (*_, whole_state) = run(ema=0.9)
    split, (*_, split_state) = run(shape, ema=0.9, accumulate=parts)
    np.testing.assert_allclose(split, whole, rtol=1e-5)
    assert_close(split_state.params, whole_state.params, atol=1e-5)


@pytest.mark.parametrize("rows", [[0, 1, 3, 5, 7, 9, 11], [1, 3, 5, 7], []])
def test_parts_count_by_their_examples(rows):
    """Padding leaves the parts unequal: one has a single example, or none."""
    objective, params = make_objective(), initial(make_model())
    batch = make_batch(rows=12)
    batch["weight"] = np.isin(np.arange(12), rows).astype(np.float32)
    frozen = jax.tree.map(lambda _: False, params)

    @functools.partial(jax.jit, static_argnames="parts")
    def found(batch, parts):
        return accumulate(objective, frozen, params, batch, jax.random.key(0), parts)

    whole, split = found(batch, 1), found(batch, 2)
    assert_close(split, whole, rtol=1e-4, atol=1e-6)
    assert float(whole[1]["loss"][1]) == len(rows)


def test_parts_of_a_batch_take_every_nth_row():
    parts = interleaved_parts(jnp.arange(8), 2)
    np.testing.assert_array_equal(parts, [[0, 2, 4, 6], [1, 3, 5, 7]])


def test_average_of_parameters_follows_its_formula():
    _, trajectory = run(contrastive=1.0, ema=0.27)
    average = trajectory[0].params
    for state, decay in zip(trajectory[1:], (2 / 11, 3 / 12, 0.27), strict=True):
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
    assert_close(trajectory[-1].ema, average, atol=1e-6)
    best = trajectory[-1].best_params
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a is b, best, trajectory[-1].ema)))


def test_the_average_forgets_where_it_began():
    """A thousand updates that stay at 1: what is missing to 1 is the share of the start, 0."""
    average = 0.0
    for step in range(1, 1_001):
        decay = averaging_decay(step, 0.998)
        average = decay * average + (1 - decay) * 1.0
    assert average == pytest.approx(1.0, abs=1e-6)
    assert averaging_decay(100_000, 0.998) == pytest.approx(0.998)


def test_frozen_parameters_stay_and_have_no_moments():
    _, (first, *_, state) = run(freeze=("(image|text)/.*",))
    start = first.params
    for part in ("image", "text"):
        assert_close(state.params[part], start[part], atol=0)
    assert not np.allclose(
        state.params["head_colour"]["logits"]["kernel"], start["head_colour"]["logits"]["kernel"]
    )
    moments = {path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)}
    assert any("/mu/head_colour/" in name for name in moments)
    assert not any("/mu/image/" in name for name in moments)


@pytest.mark.parametrize("shape", SHAPES)
def test_adapters_learn_the_same_on_every_mesh_and_nothing_else_of_an_encoder_moves(shape):
    losses, (first, *_, state) = run(shape, adapted=True, accumulate=2, ema=0.9)
    expected, (*_, expected_state) = run(adapted=True, accumulate=2, ema=0.9)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    assert_close(state.params, expected_state.params, atol=1e-5)
    assert_close(state.ema, expected_state.ema, atol=1e-5)
    before, after = (flatten_dict(s.params, sep="/") for s in (first, state))
    moved = {path for path, leaf in after.items() if not np.array_equal(leaf, before[path])}
    of_encoders = {path for path in moved if path.startswith(("image/", "text/"))}
    assert of_encoders
    assert all("/lora_" in path for path in of_encoders)
    assert {"sequence", "modality", "head_colour"} <= {path.split("/")[0] for path in moved}
    assert not any("image/position" in path for path in flatten_dict(state.ema, sep="/"))


def second_update(train, params, gradients):
    """What the optimizer adds in its second step; with a warm-up the first has a rate of 0."""
    optimizer = make_optimizer(train, params)

    @jax.jit
    def two_steps(params, gradients):
        _, state = optimizer.update(gradients, optimizer.init(params), params)
        return optimizer.update(gradients, state, params)[0]

    return two_steps(params, gradients)


def test_rates_scale_the_update_of_what_they_match():
    params = initial(make_model())
    even, less = (
        second_update(
            settings(rates=(("image/.*", factor), (".*", 1.0))),
            params,
            jax.tree.map(jnp.ones_like, params),
        )
        for factor in (1.0, 0.1)
    )
    assert_close(less["image"], jax.tree.map(lambda x: 0.1 * x, even["image"]), rtol=1e-5)
    assert_close(less["head_colour"], even["head_colour"], rtol=1e-6)


def test_layer_decay_shrinks_towards_the_input():
    params = initial(make_model())
    factors = rate_factors(settings(layer_decay=(("image/.*", 0.5),)), params)
    image = factors["image"]
    blocks = np.ravel(image["stack"]["blocks"]["mlp_up"]["kernel"])
    np.testing.assert_allclose(blocks, [0.25, 0.5])  # two layers, the last one nearest the end
    assert image["patch_embedding"]["kernel"] == image["class_token"] == 0.125
    assert image["projection"]["kernel"] == image["post_norm"]["scale"] == 1.0
    assert np.all(factors["text"]["stack"]["blocks"]["mlp_up"]["kernel"] == 1.0)


@pytest.mark.parametrize("layers", [1, 3])
def test_layer_decay_counts_the_last_layer_of_sequence_attention(layers):
    params = initial(make_model(layers=layers))
    sequence = rate_factors(settings(layer_decay=(("sequence/.*", 0.5),)), params)["sequence"]
    assert sequence["last"]["mlp_up"]["kernel"] == 0.5
    assert sequence["norm"]["scale"] == 1.0
    assert sequence["image_type"] == sequence["text_type"] == 0.5 ** (layers + 1)
    if layers > 1:
        blocks = np.ravel(sequence["stack"]["blocks"]["mlp_up"]["kernel"])
        np.testing.assert_allclose(blocks, [0.125, 0.25])


def test_weight_decay_pulls_only_what_its_rules_say():
    """With gradients of zero, AdamW's update is the decay alone."""
    params = initial(make_model())
    train = settings(weight_decay=((".*/kernel", 0.1), (".*", 0.0)), warmup=0.0, steps=10)
    updates = second_update(train, params, jax.tree.map(jnp.zeros_like, params))
    rate = float(make_schedule(train)(1))
    kernel = params["head_colour"]["logits"]["kernel"]
    np.testing.assert_allclose(
        updates["head_colour"]["logits"]["kernel"], -rate * 0.1 * kernel, rtol=1e-5
    )
    assert np.all(updates["image"]["class_token"] == 0)


def test_schedule_warms_up_and_follows_a_cosine_to_zero():
    schedule = make_schedule(settings(steps=100, warmup=0.1, learning_rate=2.0))
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 5, 10, 55, 100)], [0, 1, 2, 1, 0], atol=1e-6
    )


def test_a_run_of_one_step_learns():
    for train in (settings(steps=1, warmup=0.05), settings(steps=10, warmup=0.0)):
        assert make_schedule(train)(0) == pytest.approx(train.learning_rate)
    schedule = make_schedule(settings(steps=4, warmup=1.0))
    assert [float(schedule(step)) for step in (0, 4)] == pytest.approx([0.0, 3e-3])


@pytest.mark.parametrize("clip", [0.0, 0.5, 100.0])
def test_clipped_adam_is_optaxs_clipping_and_adam(clip):
    limit = optax.clip_by_global_norm(clip) if clip else optax.identity()
    theirs = optax.chain(limit, optax.scale_by_adam(0.9, 0.98, eps=1e-6))
    ours = clipped_adam(clip, 0.9, 0.98, 1e-6)
    random = np.random.default_rng(0)
    params = {"a": np.zeros((5, 7), np.float32), "b": np.zeros(3, np.float32)}
    state = their_state = theirs.init(params)
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(state)
    for _ in range(5):
        gradients = jax.tree.map(lambda x: random.normal(size=x.shape).astype(x.dtype), params)
        found, state = jax.jit(ours.update)(gradients, state)
        wanted, their_state = jax.jit(theirs.update)(gradients, their_state)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
        jax.tree.map(close, (found, state), (wanted, their_state))


def test_clipping_bounds_the_norm():
    params = {"a": jnp.zeros(3)}
    train = settings(clip=1.0, b1=0.0, b2=0.0, epsilon=1.0, weight_decay=((".*", 0.0),), warmup=0.0)
    updates = [
        second_update(train, params, {"a": scale * jnp.array([3.0, 4.0, 0.0])})["a"]
        for scale in (10.0, 1000.0)
    ]
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-5)


def test_a_rule_that_matches_nothing_is_an_error():
    params = initial(make_model())
    for field, value in (
        ("rates", (("imge/.*", 0.1), (".*", 1.0))),
        ("freeze", ("imge/.*",)),
        ("layer_decay", (("imge/.*", 0.5),)),
        ("weight_decay", ((".*/weight", 0.1), (".*", 0.0))),
    ):
        with pytest.raises(UserError, match=f"train.{field}.*matches no parameter.*'image'"):
            make_optimizer(settings(**{field: value}), params)
    with pytest.raises(UserError, match=r"no rule of train\.rates covers"):
        make_optimizer(settings(rates=(("image/.*", 0.1),)), params)
    with pytest.raises(UserError, match="nothing is left to learn"):
        make_optimizer(settings(freeze=(".*",)), params)


def test_a_bad_step_changes_nothing_and_neither_do_those_after_it():
    objective, train = make_objective(), settings()
    mesh = make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(train, initial(objective.model))
    init, shapes = state_template(objective, optimizer, make_batch(), False)
    state = create_state(init, SEED, shapes, mesh)
    step = make_train_step(objective, optimizer, train, mesh, shapes)
    good = to_device(make_batch(), batch_sharding(mesh))
    state, figures = step(SEED, state, good)
    assert not figures["bad"]
    before = jax.device_get(state)
    poisoned = {**good, "weight": good["weight"] * jnp.nan}
    for batch in (poisoned, good):
        state, figures = step(SEED, state, batch)
        assert figures["bad"]
    assert_close(state.replace(bad=before.bad), before, atol=0)


def test_mesh_sizes_that_do_not_fit_say_what_would():
    with pytest.raises(UserError, match=r"fsdp=3.*does not fill 8 device"):
        make_mesh(fsdp=3)
    with pytest.raises(UserError, match="one of them may be -1"):
        make_mesh(data=-1, fsdp=-1)
    assert dict(make_mesh(tensor=2).shape) == {"data": 4, "fsdp": 1, "tensor": 2}


def test_an_axis_that_does_not_divide_stays_whole():
    mesh = make_mesh(tensor=8)
    shardings = tree_shardings(initial(make_model()), mesh)
    attention = shardings["image"]["stack"]["blocks"]["attention"]["qkv"]["kernel"]
    assert not any(attention.spec)  # two heads over eight devices
    assert shardings["image"]["stack"]["blocks"]["mlp_up"]["kernel"].spec[-1] == "tensor"


def test_a_run_starts_from_weights_wherever_they_have_to_lie():
    objective, train = make_objective(), settings(ema=0.9)
    optimizer = make_optimizer(train, initial(objective.model))
    mesh = make_mesh(2, 2, 2)
    init, shapes = state_template(objective, optimizer, make_batch(), True)
    drawn = create_state(init, SEED, shapes, mesh)
    given = jax.tree.map(lambda x: np.asarray(x) + 1, {"image": drawn.params["image"]})
    given["image"]["position_embedding"] = np.zeros((17, 32), np.float32)
    state, lines = start_from(drawn, given)
    assert any("from 4x4 to 2x2 patches" in line for line in lines)
    given["image"]["position_embedding"] = np.zeros((5, 32), np.float32)
    assert_close(state.params["image"], given["image"], rtol=0)
    assert_close(state.params["text"], drawn.params["text"], rtol=0)
    assert_close(state.ema, state.params, rtol=0)
    layouts = [jax.tree.map(lambda x: x.sharding, s.params) for s in (state, drawn)]
    assert layouts[0] == layouts[1]
