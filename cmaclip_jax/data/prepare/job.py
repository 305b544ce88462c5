"""A preparation that a config describes, run on this machine or on Beam's machines."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from cmaclip_jax.config import base_config
from cmaclip_jax.data.prepare.overheard import Overheard
from cmaclip_jax.data.prepare.shards import Form, Preparation
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import select_tasks

# The fields of config.data that decide which records exist and how they are read.
OF_RECORDS = ("source", "path", "image", "text", "labels", "many", "outside", "on_error")
OF_SOURCES = {"shop": ("shop", "image_size"), "tfds": ("tfds",)}


@dataclasses.dataclass(frozen=True)
class Job:
    """What to prepare, as values that can be pickled. `data` is config.data in JSON."""

    data: str
    output: str
    form: Form

    @classmethod
    def of(cls, data: ConfigDict, output: str, form: Form) -> Job:
        """The job that a config describes. Pictures of `shop` are drawn at the size to store."""
        values = json.loads(data.to_json())
        values["image_size"] = values["image_size"] or form.size
        return cls(json.dumps(values), output, form)

    def open(self) -> Preparation:
        """Opens the sources and claims the output folder."""
        data = base_config().data
        data.update(json.loads(self.data))
        overheard = Overheard(data.on_error)
        sources = open_sources(data, overheard)
        tasks = select_tasks(next(iter(sources.values())).tasks, data.labels)
        fields = (*OF_RECORDS, *OF_SOURCES.get(data.source, ()))
        origin = {name: json.loads(self.data)[name] for name in fields}
        return Preparation(sources, tasks, self.output, self.form, overheard, origin)


@functools.cache
def _opened(job: Job) -> Preparation:
    return job.open()


def write_piece(job: Job, piece: tuple[str, int]) -> None:
    """Writes one shard, on whichever machine this runs."""
    _opened(job).write(*piece)


def write_with_beam(job: Job, pieces: Sequence[tuple[str, int]], options: Sequence[str]) -> None:
    """Writes shards on the machines of Beam's options, which must all reach data and output."""
    try:
        import apache_beam as beam
    except ImportError as error:
        raise UserError("--beam needs Apache Beam: pip install 'cmaclip_jax[beam]'") from error
    with beam.Pipeline(argv=list(options)) as pipeline:
        shards = pipeline | beam.Create(list(pieces)) | beam.Reshuffle()
        _ = shards | beam.Map(functools.partial(write_piece, job))
