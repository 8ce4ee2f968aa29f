"""The closed-form edit of cross-attention: the matrices that see the target's tokens as the anchor's.

For each to_k and to_v, with rows c of tokens and W (in, out),

    W' = argmin  sum_e w_e |c_e W' - a_e W|^2 + sum_r w_r |c_r W' - c_r W|^2 + ridge |W' - W|^2
       = W + (C^T D C + ridge I)^-1 C_e^T D_e (A - C_e) W,

C all the rows with their weights D, C_e those of the targets, A those of the anchors.

Source: Gandikota, Orgad, Belinkov, Materzynska, Bau, Unified concept editing in diffusion models, 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Parameters
from fdiv_jax.nn import Text, TextConditioning
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning.concepts import PromptPair
from fdiv_jax.unlearning.config_parts import EditConfig
from fdiv_jax.unlearning.parameters import Network, Selection

__all__ = ["aligned_tokens", "edit_cross_attention", "solve_edit"]


def edit_cross_attention(
    pipe: TextToImagePipeline,
    selection: Selection,
    pairs: Sequence[PromptPair],
    retained: Sequence[str],
    config: EditConfig,
) -> Parameters:
    """The edited matrices of `selection`, by name.

    Args:
        pipe: the model.
        selection: to_k and to_v of the cross-attentions.
        pairs: of target and anchor prompts; their tokens from the end of the concept on are matched.
        retained: prompts whose tokens are to be seen as they were.
        config: the weights of the three terms.
    """
    targets, anchors = [], []
    for pair in pairs:
        target, anchor = aligned_tokens(pipe, pair)
        targets.append(target)
        anchors.append(anchor)
    kept = [_hidden(pipe.encode_prompts(retained))] if retained else []
    target, anchor = np.concatenate(targets), np.concatenate(anchors)
    rows = [part.reshape(-1, part.shape[-1]) for part in kept]
    stay = np.concatenate(rows) if rows else np.zeros((0, target.shape[1]))
    parameters = Network.parameters(pipe.unet)
    return {
        name: jnp.asarray(value, parameters[name].dtype)
        for name, value in solve_edit(
            {name: parameters[name] for name in selection.names}, target, anchor, stay, config
        ).items()
    }


def solve_edit(
    matrices: Mapping[str, jax.Array],
    target: np.ndarray,
    anchor: np.ndarray,
    stay: np.ndarray,
    config: EditConfig,
) -> dict[str, np.ndarray]:
    """W' of every matrix (in, out), float64, for rows of tokens: target and anchor (n, in), stay (k, in).

    The weights are of means over rows, times the number of target rows, so that long prompts count no more.
    """
    target, anchor, stay = (np.asarray(rows, np.float64) for rows in (target, anchor, stay))
    gram = config.erase * target.T @ target + config.ridge * np.eye(target.shape[1])
    if len(stay):
        gram = gram + config.preserve * (len(target) / len(stay)) * stay.T @ stay
    change = np.linalg.solve(gram, config.erase * target.T @ (anchor - target))
    return {
        name: np.asarray(w, np.float64) + change @ np.asarray(w, np.float64) for name, w in matrices.items()
    }


def aligned_tokens(pipe: TextToImagePipeline, pair: PromptPair) -> tuple[np.ndarray, np.ndarray]:
    """Features of the target prompt's tokens from the last one of the concept on, and of the anchor prompt's
    from the last one of what takes its place on, (n, d) each: the tokens after the concept carry it too."""
    target_ids, anchor_ids = (
        [int(i) for i in row] for row in np.asarray(pipe.tokenize([pair.target, pair.anchor])[0])
    )
    end = pipe.tokenizer.eos_token_id
    lengths = [ids.index(end, 1) for ids in (target_ids, anchor_ids)]
    same = 0  # tokens that the two prompts end with
    while same < min(lengths) - 1 and target_ids[lengths[0] - 1 - same] == anchor_ids[lengths[1] - 1 - same]:
        same += 1
    starts = [max(1, length - 1 - same) for length in lengths]
    text = _hidden(pipe.encode_prompts([pair.target, pair.anchor]))
    count = min(text.shape[1] - start for start in starts)
    return text[0, starts[0] : starts[0] + count], text[1, starts[1] : starts[1] + count]


def _hidden(text: Text) -> np.ndarray:
    hidden = text.hidden if isinstance(text, TextConditioning) else text
    return np.asarray(hidden, np.float64)
