"""The embeddings of pictures and of words, as a classifier computes them for a pair."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cmaclip_jax.data.pairs import ReadPair
from cmaclip_jax.evaluation.predictor import Predictor
from cmaclip_jax.models.cma_clip import MODALITIES
from cmaclip_jax.models.encoders import unit
from cmaclip_jax.parallel.mesh import batch_sharding
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.server.batcher import fitting_size
from cmaclip_jax.serving.classifier import Classifier

Row = dict[str, list[float] | None]


def embeddings(
    sizes: Sequence[int], classifier: Classifier, pairs: Sequence[ReadPair]
) -> tuple[int, list[Row]]:
    """The step of the checkpoint, and {modality: embedding or None} of every pair.

    sizes: the sizes of a batch, in rising order.
    """
    step = make_embedding_step(classifier.trained.predictor)
    rows: list[Row] = []
    for start in range(0, len(pairs), sizes[-1]):
        some = pairs[start : start + sizes[-1]]
        batch, _ = classifier.reader.batch(some, fitting_size(sizes, len(some)))
        both = classifier.outcome(batch, len(some), step)["embeddings"]  # [N,2,D]
        for number, pair in enumerate(both):
            present = [batch[f"has_{name}"][number] for name in MODALITIES]
            lists = [x.tolist() if has else None for x, has in zip(pair, present, strict=True)]
            rows.append(dict(zip(MODALITIES, lists, strict=True)))
    return classifier.trained.step, rows


@functools.lru_cache(maxsize=1)
def make_embedding_step(predictor: Predictor) -> Callable:
    """`(params, batch) -> {"embeddings": [B,2,D]}`, jitted, of length 1."""

    def embed(params, batch):
        _, aux = predictor.objective.model.apply({"params": params}, batch)
        return {"embeddings": unit(aux["embeddings"].astype(jnp.float32))}

    return jax.jit(
        embed,
        in_shardings=(
            tree_shardings(predictor.answering_shapes, predictor.mesh),
            batch_sharding(predictor.mesh),
        ),
        out_shardings=NamedSharding(predictor.mesh, PartitionSpec()),
    )
