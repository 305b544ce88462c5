"""CMA-CLIP in JAX/Flax: classify pictures with words, many questions at once.

import cmaclip_jax as cma
clip = cma.load_clip("openai/clip-vit-base-patch32")
clip.embed_images(["cat.jpg"]) @ clip.embed_texts(["a photo of a cat"]).T
model = cma.load("runs/quickstart")
model.predict(images=["mug.jpg"], texts=["a red mug"])[0]["colour"].label
"""

import importlib

__version__ = "0.2.0.dev0"  # setup.py and a run's folder take it from here
# Each is imported at its first use, because importing JAX takes seconds.
_MODULES = {
    "Answer": "cmaclip_jax.serving.classifier",
    "Classifier": "cmaclip_jax.serving.classifier",
    "ClipEmbedder": "cmaclip_jax.serving.embedding",
    "UserError": "cmaclip_jax.errors",
    "load": "cmaclip_jax.serving.classifier",
    "load_clip": "cmaclip_jax.serving.embedding",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
