"""Ask for what is wanted in words: an instruction before the text."""

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import as_sides
from steerlens.methods.baselines.mixing import Voice, encode_lead, toward_sides
from steerlens.methods.baselines.mixture import Mixture
from steerlens.models.adapters import Model
from steerlens.models.readout import readout
from steerlens.values.texts import as_name

SENTENCE = "Complete this sentence so that it embodies a {} sentiment:"
"""What the paper's PromptT5 was asked."""
INSTRUCTIONS = SENTENCE.format("positive"), SENTENCE.format("negative")


@torch_defaults()
def instruct(
    model: Model,
    *,
    instructions: tuple[str, str] = INSTRUCTIONS,
    name: str = "instruction",
) -> Mixture:
    """Return the model behind an instruction, one for each sign of the strength.

        z = z_base(text) + |s| (z_base(instruction of the sign, text) − z_base(text))

    Strength 1 is plain prompting; less is a geometric mean with the model that was asked nothing,
    more presses the instruction harder, which is classifier-free guidance. Nothing is learned. A
    model that never learned to follow instructions only takes up the words.

    Source: Han et al. (arXiv 2305.12798), section 4.1 (PromptT5, with its sentence); beyond strength
    1 Sanchez et al. (arXiv 2306.17806), equation 7.

    Args:
        instructions: for positive and for negative strengths.

    Raises:
        ValueError: an instruction without a token of the model's vocabulary.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> asked = instruct(model, instructions=("it was superb .", "it was terrible ."))
        >>> asked.n_parameters
        0
    """
    name = as_name(name)
    asked = as_sides(instructions, "instructions")
    voices = tuple(Voice(None, encode_lead(model, text, "instructions")) for text in asked)
    return Mixture(voices, toward_sides, readout(model), 0, name)
