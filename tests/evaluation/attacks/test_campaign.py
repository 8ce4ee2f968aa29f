"""Attacks on several models: what is kept, what is gone on with, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.evaluation.attacks import Campaign, Drawing, Probe, attack_models
from tests.evaluation.attacks.cases import PROMPTS, images
from tests.tiny import SCHEDULER, tiny_pipeline

DRAWING = Drawing((0, 1, 2, 3), steps=1, guidance=1.0, sampler="ddim")


@dataclasses.dataclass(frozen=True)
class Paint:
    """An attack that draws images of a colour: as bright as its budget, half of them at most."""

    axis = "paint"
    searches = True
    assumes = "a brush"

    colour: int = 200
    made = []

    def probes(self, case, budget, tell):
        self.made.append((case.seed, case.images.pixels[0, 0, 0, 0]))
        for at in (budget // 2, budget):
            tell(at, "painting")
            level = self.colour if at == budget else 0
            yield Probe(
                at, lambda drawing, level=level: np.full((len(drawing.seeds), 8, 8, 3), level, np.uint8)
            )


def recogniser_of(base):
    """Recognises what the base draws, the right way up, and bright paint."""
    own = DRAWING.draw(base, PROMPTS)

    def one(picture):
        painted = (picture == picture[0, 0, 0]).all() and picture[0, 0, 0] > 100
        return painted or any(np.array_equal(picture, each) for each in own)

    return lambda pictures: np.array([one(picture) for picture in pictures])


@pytest.fixture
def base():
    return tiny_pipeline(latent=4)


@pytest.fixture
def campaign(base):
    Paint.made.clear()
    return Campaign(
        "sneaker",
        "sneaker",
        PROMPTS,
        images(base),
        recogniser_of(base),
        {"paint": Paint()},
        budget=6,
        seeds=(0, 1),
        drawing=DRAWING,
    )


def test_curves_are_made_once_for_every_model_and_seed_with_ceiling_and_floor(base, campaign, tmp_path):
    drawn = []
    told = []
    report = attack_models(
        base,
        {"runs/uce": base, "kl": base},
        campaign,
        tmp_path / "out",
        display=lambda *each: told.append(each),
        picture=lambda path, before, after: drawn.append((path.name, before.shape, after.mean())),
    )
    assert [(c.model, c.seed) for c in report.curves] == [
        (model, seed) for seed in (0, 1) for model in ("runs/uce", "kl", "frozen", "floor")
    ]
    first = campaign.images.pixels[0, 0, 0, 0], campaign.images.pixels[0, -1, 0, 0]
    assert [each for seed, each in Paint.made if seed == 0] == [first[0]] * 3 + [first[1]]
    assert [each.model for each in report.outcomes] == ["runs/uce", "kl"]
    assert all(c.points[1].rate.value == 1.0 for c in report.curves)  # it paints whatever is asked for
    assert (report.outcomes[0].counted, report.outcomes[0].after.value) == (3.0, 0.0)
    assert len(drawn) == 8
    assert drawn[0][1:] == ((4, 8, 8, 3), 200.0)
    assert any("paint on kl, seed 1 (6 of 8): painting, 0.00 recognised" in text for text, _, _ in told)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["assumes"] == {"paint": "a brush"}
    assert len(result["curves"]) == 8
    assert result["curves"][0]["points"][1] == {
        "at": 6, "success": 1.0, "low": pytest.approx(0.47, abs=0.1), "high": 1.0, "label": "",
        "images": "1111", "detail": {},
    }  # fmt: skip


def test_what_does_not_search_is_made_once_and_the_base_is_drawn_once(base, campaign):
    drawn = []

    class Still(Paint):
        searches = False

    class Counted(Drawing):
        def draw(self, pipe, prompts):
            drawn.append(pipe)
            return super().draw(pipe, prompts)

    counted = Counted(DRAWING.seeds, DRAWING.steps, DRAWING.guidance, DRAWING.sampler)
    again = dataclasses.replace(campaign, attacks={"still": Still()}, drawing=counted)
    other = base.replace(name="other")
    report = attack_models(base, {"kl": other}, again)
    assert [(c.model, c.seed) for c in report.curves] == [("kl", 0), ("frozen", 0), ("floor", 0)]
    assert [each.searches for each in report.outcomes] == [1]
    assert [pipe.name for pipe in drawn] == [base.name, "other"]


def test_a_campaign_goes_on_where_it_was_stopped(base, campaign, tmp_path):
    class Stopped(Exception):
        pass

    def stop(text, done, total):
        if "seed 1" in text:
            raise Stopped

    place = tmp_path / "out"
    with pytest.raises(Stopped):
        attack_models(base, {"kl": base}, campaign, place, display=stop)
    assert [seed for seed, _ in Paint.made] == [0] * 3 + [1]  # the last one was not finished
    with pytest.raises(FileExistsError):
        attack_models(base, {"kl": base}, campaign, place)
    report = attack_models(base, {"kl": base}, campaign, place, resume=True)
    assert [seed for seed, _ in Paint.made] == [0] * 3 + [1] * 4
    whole = attack_models(base, {"kl": base}, campaign)
    assert whole.curves == report.curves


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"budget": 8}, "budget"),
        ({"attacks": {"paint": Paint(90)}}, "attack"),
        ({"word": "a sneaker"}, "word"),
    ],
)
def test_a_finished_search_of_other_settings_is_refused(base, campaign, tmp_path, change, name):
    attack_models(base, {"kl": base}, campaign, tmp_path / "out")
    other = dataclasses.replace(campaign, **change)
    with pytest.raises(ValueError, match=f"made with another {name}"):
        attack_models(base, {"kl": base}, other, tmp_path / "out", resume=True)


def test_another_model_under_the_same_name_is_refused(base, campaign, tmp_path):
    attack_models(base, {"kl": base}, campaign, tmp_path / "out")
    schedule = NoiseSchedule.from_config({**SCHEDULER, "prediction_type": "v_prediction"})
    for other in (tiny_pipeline(5, latent=4), base.replace(schedule=schedule)):
        with pytest.raises(ValueError, match="made with another model"):
            attack_models(base, {"kl": other}, campaign, tmp_path / "out", resume=True)


def test_a_concept_that_the_base_does_not_draw_is_refused(base, campaign):
    nothing = dataclasses.replace(campaign, recognise=lambda pictures: np.zeros(len(pictures), bool))
    with pytest.raises(ValueError, match=r"the base shows 'sneaker' in 0 of 4 images at its prompts"):
        attack_models(base, {"kl": base}, nothing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "budget 0, expected at least 1"),
        ({"seeds": ()}, "no seeds"),
        ({"seeds": (1, 1)}, "expected different ones"),
        ({"seeds": (2**31,)}, "expected 0 to"),
        ({"attacks": {}}, "no attacks"),
        ({"drawing": Drawing(())}, "no fresh images"),
    ],
)
def test_bad_campaigns(campaign, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(campaign, **change)


def test_names_that_are_taken(base, campaign):
    with pytest.raises(ValueError, match="'frozen'"):
        attack_models(base, {"frozen": base}, campaign)
    with pytest.raises(ValueError, match="no model to attack"):
        attack_models(base, {}, campaign)


def test_the_curves_are_drawn(base, campaign, tmp_path):
    from PIL import Image

    from fdiv_jax.evaluation.attacks.picture import save_curves

    save_curves(attack_models(base, {"kl": base}, campaign), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 300


def test_there_is_no_floor_where_the_base_s_own_images_show_the_concept_upside_down(base, campaign):
    either = dataclasses.replace(
        campaign,
        recognise=lambda pictures: campaign.recognise(pictures) | campaign.recognise(pictures[:, ::-1]),
    )
    report = attack_models(base, {"kl": base}, either)
    assert {curve.model for curve in report.curves} == {"kl", "frozen"}
    (found,) = report.outcomes
    assert found.floor is None
    assert found.counted == 6
    assert "no floor: turned over, 1.00 of the base's own images show it" in found.note
    given = attack_models(base, {"kl": base}, either, floor=base)
    assert {curve.model for curve in given.curves} == {"kl", "frozen", "floor"}
    assert "no floor" not in given.outcomes[0].note
