"""What of a batch goes through the backbone: flips as rows of their own, and nothing for other networks."""

import numpy as np
from prometheus_client import REGISTRY

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError, InvalidHead
from models.head import Kind, answers
from models.prepared import Pass
from service.inference.batching import Answer, HeadRef
from service.inference.running import Trunk, run_batch
from tests.unit.batches import RED, Broken, Channel, Shelf, corner, job, job_of, mean_colour, photos, trunk

FLIPS = ("as it is", "left-right", "top-bottom", "both")
FOUR = HeadRef("four", "four", "stage", FLIPS)
TWO = HeadRef("two", "two", "embedding", FLIPS[:2])
OWN = HeadRef("own", "own", "pixels")


class Watched:
    """A backbone that embeds corners and remembers the rows and the outputs of its passes."""

    def __init__(self) -> None:
        self.passes: list[tuple[int, tuple[str, ...]]] = []
        known = trunk(corner)

        def begin(pixels: UInt8Array, outputs: tuple[str, ...]) -> Pass:
            self.passes.append((len(pixels), outputs))
            return known.begin(pixels, outputs)

        self.trunk = Trunk(begin, known.outputs)


class Classifier(Channel):
    """Its logits are the features; it never gives probabilities of its own when logits are asked for."""

    kind: Kind = "multiclass"

    def logits(self, embeddings: FloatArray) -> FloatArray:
        self.runs.append(len(embeddings))
        return embeddings


class Network(Channel):
    """Takes pixels; answers one channel of the corner."""

    def run(self, pixels: UInt8Array) -> FloatArray:
        self.runs.append(len(pixels))
        return pixels[:, 0, 0, self.channel, None].astype(np.float32)


def backbone_images() -> float:
    return REGISTRY.get_sample_value("polyhead_backbone_images_total") or 0.0


def test_the_outputs_that_a_batch_needs_come_from_one_pass():
    """A tail takes its stage; the embedding is computed only where somebody wants it."""
    asked: list[tuple[str, ...]] = []
    known = trunk(mean_colour)

    def begin(pixels: UInt8Array, outputs: tuple[str, ...]) -> Pass:
        asked.append(outputs)
        return known.begin(pixels, outputs)

    tail, lost = HeadRef("tail", "tail", "stage"), HeadRef("lost", "lost", "no such stage")
    shelf = Shelf()
    shelf.held |= {tail: Channel(0), lost: Channel(0)}
    watched = Trunk(begin, known.outputs)
    mixed = [job((1, 2, 3), heads=(RED, tail)), job((4, 5, 6), heads=(tail, lost))]
    first, second = run_batch(mixed, watched, shelf)
    run_batch([job((1, 2, 3), heads=(tail,))], watched, shelf)
    run_batch([job((1, 2, 3), heads=(tail,), embeddings=True)], watched, shelf)
    assert asked == [("embedding", "stage"), ("stage",), ("embedding", "stage")]
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert [output.tolist() for output in first.outputs] == [[[1.0]], [[2.0]]]
    assert second.outputs[0].tolist() == [[8.0]]
    assert isinstance(second.outputs[1], InvalidHead)


def test_a_tail_answers_with_the_mean_of_its_logits_over_its_views_from_one_pass():
    """Softmax comes after the mean; only the jobs that need flips are flipped, and each flip is counted."""
    shelf, watched, counted = Shelf(), Watched(), backbone_images()
    shelf.held[FOUR] = Classifier(0)
    pixels, plain = photos(3), photos(2)
    jobs = [job_of(plain, (RED,)), job_of(pixels, (RED, FOUR), embeddings=True)]
    first, second = run_batch(jobs, watched.trunk, shelf)

    corners = [pixels[:, y, x].astype(np.float32) * 2 for y in (0, -1) for x in (0, -1)]
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert np.allclose(second.outputs[1], answers("multiclass", np.mean(corners, axis=0)), atol=1e-6)
    assert (second.outputs[0] == pixels[:, 0, 0, :1]).all()
    assert (second.embeddings == pixels[:, 0, 0]).all()
    assert (first.outputs[0] == plain[:, 0, 0, :1]).all()
    assert watched.passes == [(2 + 3 * 4, ("embedding", "stage"))]
    assert backbone_images() - counted == 14
    assert shelf.held[RED].runs == [5]
    assert shelf.held[FOUR].runs == [12]


def test_a_value_is_averaged_over_views_as_it_is():
    shelf = Shelf()
    shelf.held[TWO] = Channel(1)
    pixels = photos(2)
    (answer,) = run_batch([job_of(pixels, (TWO,))], Watched().trunk, shelf)
    assert isinstance(answer, Answer)
    assert (answer.outputs[0][:, 0] == (pixels[:, 0, 0, 1] + pixels[:, 0, -1, 1]) / 2).all()


def test_many_flips_take_more_passes_of_bounded_size_and_answer_the_same():
    shelf, watched = Shelf(), Watched()
    shelf.held[FOUR] = Classifier(0)
    jobs = [job_of(photos(count), (FOUR,)) for count in (8, 7, 6, 5)]
    together = run_batch(jobs, watched.trunk, shelf)
    apart = [answer for each in jobs for answer in run_batch([each], Watched().trunk, shelf)]
    assert sum(rows for rows, _ in watched.passes) == 26 * 4
    assert len(watched.passes) == 2
    assert max(rows for rows, _ in watched.passes) <= 64
    for one, other in zip(together, apart, strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        assert np.allclose(one.outputs[0], other.outputs[0], atol=1e-6)


def test_images_as_they_are_stay_in_one_pass_however_many_they_are():
    watched = Watched()
    run_batch([job_of(photos(100), (RED,))], watched.trunk, Shelf())
    assert watched.passes == [(100, ("embedding",))]


def test_a_tail_of_views_that_fails_or_has_unknown_ones_fails_alone():
    shelf = Shelf()
    upside_down = HeadRef("odd", "odd", "stage", ("as it is", "upside down"))
    broken = HeadRef("broken", "broken", "stage", FLIPS)
    shelf.held |= {upside_down: Classifier(0), broken: Broken(0), FOUR: Classifier(0)}
    (answer,) = run_batch([job_of(photos(2), (upside_down, broken, FOUR))], Watched().trunk, shelf)
    assert isinstance(answer, Answer)
    assert "upside down" in str(answer.outputs[0])
    assert isinstance(answer.outputs[1], InvalidHead)
    assert answer.outputs[2].shape == (2, 3)


def test_a_network_of_its_own_needs_no_backbone():
    shelf, watched, counted = Shelf(), Watched(), backbone_images()
    shelf.held[OWN] = Network(2)
    one, two = photos(2), photos(3)
    first, second = run_batch([job_of(one, (OWN,)), job_of(two, (OWN,))], watched.trunk, shelf)
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert (first.outputs[0] == one[:, 0, 0, 2:]).all()
    assert (second.outputs[0] == two[:, 0, 0, 2:]).all()
    assert shelf.held[OWN].runs == [5]
    assert watched.passes == []
    assert backbone_images() == counted


def test_images_of_several_sizes_are_answered_in_one_batch():
    """Each by its network; those of the backbone's size pass it once, and no others do."""
    shelf, watched = Shelf(), Watched()
    large = HeadRef("large", "large", "pixels", input_size=9)
    shelf.held |= {OWN: Network(0), large: Network(1)}
    small, big = photos(2), photos(3, size=9)
    batch = [job_of(big, (large,)), job_of(small, (RED, OWN)), job_of(big[:1], (large,)), job_of(small)]
    first, second, third, fourth = run_batch(batch, watched.trunk, shelf)
    assert all(isinstance(answer, Answer) for answer in (first, second, third, fourth))
    assert (first.outputs[0] == big[:, 0, 0, 1:2]).all()
    assert (third.outputs[0] == big[:1, 0, 0, 1:2]).all()
    assert [output.tolist() for output in second.outputs] == [small[:, 0, 0, :1].tolist()] * 2
    assert watched.passes == [(4, ("embedding",))]
    assert shelf.held[large].runs == [4]


def test_a_network_that_fails_and_a_backbone_that_fails_leave_each_other_alone():
    def embed(_pixels: UInt8Array) -> FloatArray:
        raise MemoryError("out of memory")

    shelf, failing = Shelf(), HeadRef("failing", "failing", "pixels")
    shelf.held |= {OWN: Network(0), failing: Broken(0)}
    (good,) = run_batch([job_of(photos(2), (RED, failing, OWN))], trunk(corner), shelf)
    assert isinstance(good, Answer)
    assert isinstance(good.outputs[1], InvalidHead)
    assert (good.outputs[0] == good.outputs[2]).all()
    alone, shared = run_batch([job_of(photos(2), (OWN,)), job_of(photos(2), (RED,))], trunk(embed), shelf)
    assert isinstance(alone, Answer)
    assert isinstance(shared, BackboneError)
