"""The kinds of heat: how much an answer rests on each patch of the picture.

gradient: points best on drawn pictures; README.md has the figures.
occlusion: is measured, and every model that reads pictures has it.
"""

from collections.abc import Callable

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.objectives import Classification
from cmaclip_jax.report.gradient_heat import GradientHeat
from cmaclip_jax.report.occlusion_heat import OcclusionHeat
from cmaclip_jax.serving.classifier import Classifier

GRADIENT, OCCLUSION = "gradient", "occlusion"
# The share of drawn pictures where the hottest patch is right, and where a patch at random is.
POINTED = {
    GRADIENT: {"right": "71 to 99 %", "chance": "24 %"},
    OCCLUSION: {"right": "68 to 92 %", "chance": "24 %"},
}
Heat = GradientHeat | OcclusionHeat


def open_heat(classifier: Classifier, wanted: str, track: Callable) -> tuple[str, Heat]:
    """The kind of heat that is wanted, or else the best that the model has, and its function."""
    has_heads = isinstance(classifier.trained.objective, Classification)
    if wanted == GRADIENT and not has_heads:
        raise UserError(
            "--heat=gradient needs a model with heads, and this one compares pictures with "
            "sentences; take --heat=occlusion"
        )
    if wanted == OCCLUSION or not has_heads:
        return OCCLUSION, OcclusionHeat(classifier, track)
    return GRADIENT, GradientHeat(classifier, track)
