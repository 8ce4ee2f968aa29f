"""The closed-form edit of cross-attention: the matrices that see the target's tokens as the anchor's.

For each to_k and to_v, with rows c of tokens and W (in, out), by default (`EditConfig.form` uce)

    W' = argmin  sum_e w_e |c_e W' - a_e W|^2 + sum_r w_r |c_r W' - c_r W|^2 + ridge |W' - W|^2
       = W + (C^T D C + ridge I)^-1 C_e^T D_e (A - C_e) W,

C all the rows with their weights D, C_e those of the targets, A those of the anchors. `closed_forms` solves
this and its relatives; here their rows are gathered from prompts.

Source: Gandikota, Orgad, Belinkov, Materzynska, Bau, Unified concept editing in diffusion models, 2024.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Parameters
from fdiv_jax.nn import Text, TextConditioning
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning.closed_forms import Rows, invariant_rows, solve_edit
from fdiv_jax.unlearning.concepts import PromptPair
from fdiv_jax.unlearning.config_parts import EditConfig
from fdiv_jax.unlearning.parameters import GROUPS, Network, Selection

__all__ = ["aligned_tokens", "check_editable", "edit_cross_attention", "surrounding_tokens"]


def check_editable(selection: Selection) -> None:
    """Refuse to solve for anything but to_k and to_v of cross-attentions.

    Raises:
        ValueError: other parameters; names one.
    """
    editable = re.compile(GROUPS["cross-attn"])
    other = [name for name in selection.names if not editable.search(name)]
    if other:
        raise ValueError(
            f"method 'edit' with trainable {selection.group!r}, which finds {other[0]}: it solves for to_k "
            "and to_v of the cross-attentions; expected 'cross-attn' or an expression that finds those "
            r"alone, such as '\.attn2\.to_v\.'"
        )


def edit_cross_attention(
    pipe: TextToImagePipeline,
    selection: Selection,
    pairs: Sequence[PromptPair],
    retained: Sequence[str],
    config: EditConfig,
    *,
    seed: int = 0,
) -> Parameters:
    """The edited matrices of `selection`, by name.

    Args:
        pipe: the model.
        selection: to_k and to_v of the cross-attentions, or some of them.
        pairs: of target and anchor prompts; their tokens from the end of the concept on are matched, or those
            around it (`refinement`).
        retained: prompts whose tokens are to be seen as they were.
        config: the form of the edit, and the weights of its terms.
        seed: of the augmentation of `speed`.

    Raises:
        ValueError: parameters that are not such matrices; see `solve_edit` too.
    """
    check_editable(selection)
    gather = surrounding_tokens if config.form == "refinement" else aligned_tokens
    rows = [gather(pipe, pair) for pair in pairs]
    target, anchor = (np.concatenate(side) for side in zip(*rows, strict=True))
    width = target.shape[1]
    kept = _hidden(pipe.encode_prompts(retained)).reshape(-1, width) if retained else np.zeros((0, width))
    fixed = invariant_rows(_hidden(pipe.encode_prompts([""]))[0]) if config.form == "speed" else None
    parameters = Network.parameters(pipe.unet)
    matrices = {name: parameters[name] for name in selection.names}
    edited = solve_edit(matrices, target, anchor, kept, config, fixed=fixed, seed=seed)
    return {name: jnp.asarray(value, matrices[name].dtype) for name, value in edited.items()}


def aligned_tokens(pipe: TextToImagePipeline, pair: PromptPair) -> tuple[Rows, Rows]:
    """Features of the target prompt's tokens from the last one of the concept on, and of the anchor prompt's
    from the last one of what takes its place on, (n, d) each: the tokens after the concept carry it too."""
    _, ends = _shared(pipe, pair)
    starts = [max(1, end - 1) for end in ends]
    text = _hidden(pipe.encode_prompts([pair.target, pair.anchor]))
    count = min(text.shape[1] - start for start in starts)
    return text[0, starts[0] : starts[0] + count], text[1, starts[1] : starts[1] + count]


def surrounding_tokens(pipe: TextToImagePipeline, pair: PromptPair) -> tuple[Rows, Rows]:
    """Features of the target prompt's tokens around the concept, those before and those after it, and of the
    same tokens in the anchor prompt, (n, d) each.

    Those before it are the same in both prompts, and stay; those after it have seen the concept.

    Source: Lu et al., MACE: mass concept erasure in diffusion models, 2024.
    """
    before, ends = _shared(pipe, pair)
    text = _hidden(pipe.encode_prompts([pair.target, pair.anchor]))
    count = min(text.shape[1] - end for end in ends)
    target, anchor = (
        np.concatenate([rows[:before], rows[end : end + count]]) for rows, end in zip(text, ends, strict=True)
    )
    return target, anchor


def _shared(pipe: TextToImagePipeline, pair: PromptPair) -> tuple[int, tuple[int, int]]:
    """How many tokens the two prompts begin with alike, and where in each the tokens that they end with
    begin."""
    ids = [[int(i) for i in row] for row in np.asarray(pipe.tokenize([pair.target, pair.anchor])[0])]
    lengths = [own.index(pipe.tokenizer.eos_token_id, 1) for own in ids]
    least = min(lengths)
    same = 0
    while same < least - 1 and ids[0][lengths[0] - 1 - same] == ids[1][lengths[1] - 1 - same]:
        same += 1
    before = 0
    while before < least - same and ids[0][before] == ids[1][before]:
        before += 1
    return before, (lengths[0] - same, lengths[1] - same)


def _hidden(text: Text) -> np.ndarray:
    hidden = text.hidden if isinstance(text, TextConditioning) else text
    return np.asarray(hidden, np.float64)
