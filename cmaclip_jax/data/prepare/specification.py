"""A preparation as values that can be sent to the machines of Apache Beam."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from cmaclip_jax.config import base_config
from cmaclip_jax.data.prepare.deferred_faults import DeferredFaults
from cmaclip_jax.data.prepare.shards import Preparation, StorageFormat
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.errors import installed_by
from cmaclip_jax.tasks import select_tasks

# The fields of config.data that decide which records exist and how they are read.
OF_RECORDS = ("source", "path", "image", "text", "labels", "many", "outside", "on_error")
OF_SOURCES = {"shop": ("shop", "image_size"), "tfds": ("tfds",)}


@dataclasses.dataclass(frozen=True)
class Specification:
    """What to prepare, where, and how it is stored. `data` is config.data in JSON."""

    data: str
    output: str
    form: StorageFormat

    @classmethod
    def of(cls, data: ConfigDict, output: str, form: StorageFormat) -> Specification:
        """What a config describes. Pictures of `shop` are drawn at the size to store."""
        values = json.loads(data.to_json())
        values["image_size"] = values["image_size"] or form.size
        return cls(json.dumps(values), output, form)

    def open(self) -> Preparation:
        """Opens the sources and claims the output folder."""
        data = base_config().data
        data.update(json.loads(self.data))
        faults = DeferredFaults(data.on_error)
        sources = open_sources(data, faults)
        tasks = select_tasks(next(iter(sources.values())).tasks, data.labels)
        fields = (*OF_RECORDS, *OF_SOURCES.get(data.source, ()))
        origin = {name: json.loads(self.data)[name] for name in fields}
        return Preparation(sources, tasks, self.output, self.form, faults, origin)


@functools.cache
def _opened(specification: Specification) -> Preparation:
    return specification.open()


def write_shard(specification: Specification, shard: tuple[str, int]) -> None:
    """Writes one (split, shard), on the machine that calls it."""
    _opened(specification).write(*shard)


def write_with_beam(
    specification: Specification, shards: Sequence[tuple[str, int]], options: Sequence[str]
) -> None:
    """Writes shards on Beam's machines. All of them must reach the data and the output folder."""
    with installed_by("--beam", "cmaclip_jax[beam]"):
        import apache_beam as beam
    with beam.Pipeline(argv=list(options)) as pipeline:
        collection = pipeline | beam.Create(list(shards)) | beam.Reshuffle()
        _ = collection | beam.Map(functools.partial(write_shard, specification))
