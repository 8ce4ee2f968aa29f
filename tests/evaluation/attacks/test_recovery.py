"""What benign fine-tuning is predicted to bring back, against steps of Adam with the dense matrices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fdiv_jax.evaluation.attacks import Benign, Recovery, measure_recovery, predict_recovery, recovery
from fdiv_jax.evaluation.attacks.denoising import Denoising, denoising_loss, draw_batch, show
from fdiv_jax.unlearning import AnchorImagesConfig, trainable_of
from tests.evaluation.attacks.cases import tiny_case
from tests.tiny import tiny_pipeline

GROUP = r"mid_block\.attentions\.0\..*attn2\.to_v"
IMAGES = AnchorImagesConfig(number=4, steps=2, seed=3)


def test_steps_to_a_share():
    found = Recovery((0, 10, 20, 40), (2.0, 1.8, 1.0, 1.2))
    assert found.left == (1.0, 0.9, 0.5, 0.6)
    assert found.steps_to(0.7) == pytest.approx(15)
    assert found.steps_to(0.9) == pytest.approx(10)
    assert found.steps_to(0.4) is None
    with pytest.raises(ValueError, match="nothing was erased"):
        _ = Recovery((0, 10), (0.0, 0.1)).left


@pytest.fixture(scope="module")
def unlearned():
    """The frozen model, and a case of the model with other values in one layer."""
    case = tiny_case()
    trainable, frozen, _ = trainable_of(case.pipe, GROUP)
    start = trainable.initial(frozen, jax.random.key(0))
    rng = np.random.default_rng(0)
    moved = {name: v + 0.3 * rng.standard_normal(v.shape).astype(np.float32) for name, v in start.items()}
    return case.pipe, dataclasses.replace(case, pipe=trainable.pipeline(case.pipe, moved, frozen))


@pytest.mark.slow
def test_predicted_steps_are_those_of_dense_matrices(unlearned):
    base, case = unlearned
    attack, steps, batches = Benign(GROUP, 1e-3), (1, 2, 6), 5
    options = {"images": IMAGES, "cache": False}
    found = predict_recovery(base, case, attack, steps, batches=batches, depth=80, **options)

    concept, others = recovery._seen(base, case, attack, IMAGES, False)
    trainable, frozen, _ = trainable_of(case.pipe, GROUP)
    plan, shown = Denoising.of(case, trainable), show(case.pipe, case.retained)
    start = trainable.initial(frozen, jax.random.key(0))
    root = jax.random.fold_in(recovery.search_key(case.seed), recovery._STREAM)
    gradients = np.stack(
        [
            ravel_pytree(jax.grad(denoising_loss, 1)(plan, start, frozen, shown, noised))[0]
            for noised in (
                draw_batch(plan.schedule, shown, key, 4) for key in jax.random.split(root, batches)
            )
        ]
    ).astype(np.float64)
    mean, second = gradients.mean(0), np.sqrt((gradients**2).mean(0)) + 1e-8
    eye = np.eye(len(mean), dtype=np.float32)
    kernel = others.kernel(eye).astype(np.float64) * 2 / 4  # four channels; of the mean square
    jacobian = concept.push(eye).astype(np.float64)
    change, momentum, m = np.zeros(len(mean)), np.zeros(len(mean)), {}
    for number in range(1, max(steps) + 1):
        momentum = 0.9 * momentum + 0.1 * (mean + kernel @ change)
        change = change - 1e-3 * momentum / (1 - 0.9**number) / second
        left = concept.outputs().residual + jacobian @ change
        m[number] = np.mean(np.sum(left**2, axis=1))
    np.testing.assert_allclose(found.m[1:], [m[number] for number in steps], rtol=1e-4)
    assert found.m[0] == pytest.approx(float(concept.outputs().m.mean()), rel=1e-6)
    assert found.m[0] > 0


@pytest.mark.slow
def test_measured_steps_are_those_of_the_attack(unlearned):
    base, case = unlearned
    attack = Benign(GROUP, 1e-3)
    found = measure_recovery(base, case, attack, (1, 4), images=IMAGES, cache=False)
    (*_, probe) = attack.probes(case, 4, lambda step, text: None)
    concept = next(recovery._seen(base, case, attack, IMAGES, False))
    after = concept.of_model(probe.pipeline).outputs().m.mean()
    assert found.steps == (0, 1, 4)
    assert found.m[-1] == pytest.approx(float(after), rel=1e-5)
    assert found.m[0] == pytest.approx(float(concept.outputs().m.mean()), rel=1e-6)


@pytest.mark.slow
def test_the_frozen_model_has_nothing_to_take_back():
    case = tiny_case()
    found = predict_recovery(
        case.pipe, case, Benign(GROUP, 1e-3), (1,), batches=2, depth=2, images=IMAGES, cache=False
    )
    assert found.m[0] < 1e-12
    without = dataclasses.replace(case, retained=None)
    for call in (predict_recovery, measure_recovery):
        with pytest.raises(ValueError, match="without images of other concepts"):
            call(case.pipe, without, images=IMAGES, cache=False)
        with pytest.raises(ValueError, match=r"at \(0, 3\) .* expected numbers of steps"):
            call(case.pipe, case, at=(0, 3), images=IMAGES, cache=False)


@pytest.mark.slow
def test_another_model_beside_the_same_reference(unlearned):
    base, case = unlearned
    concept = next(recovery._seen(base, case, Benign(GROUP), IMAGES, False))
    itself = concept.of_model(base)
    assert float(np.max(itself.outputs().m)) < 1e-12
    trained = {n: jnp.asarray(v) for n, v in trainable_of(case.pipe, GROUP)[1].unet.items()}
    names = trainable_of(base, GROUP)[0].names
    there = itself.outputs({name: trained[name] for name in names})
    np.testing.assert_allclose(there.m, concept.outputs().m, rtol=1e-5)


@pytest.mark.slow
def test_a_model_with_another_text_encoder_or_unet_is_refused(unlearned):
    base, case = unlearned
    concept = next(recovery._seen(base, case, Benign(GROUP), IMAGES, False))
    other = tiny_case(seed=1).pipe.replace(unet=case.pipe.unet)
    encoder = tiny_pipeline(latent=4, seed=7).text_encoder
    with pytest.raises(ValueError, match="other text encoders"):
        concept.of_model(other.replace(text_encoder=encoder))
    with pytest.raises(ValueError, match="UNet of another structure"):
        concept.of_model(tiny_pipeline(latent=4, family="sdxl"))


@pytest.mark.slow
def test_a_gradient_of_ones_own_is_that_of_the_mean(unlearned):
    base, case = unlearned
    concept = next(recovery._seen(base, case, Benign(GROUP), IMAGES, False))
    gradient = concept.gradients(np.ones((1, concept.samples)))[0]
    plain, own = concept.descent(3), concept.descent(3, gradient=gradient)
    np.testing.assert_allclose(own.change(0.1, 5), plain.change(0.1, 5), rtol=1e-4, atol=1e-7)
