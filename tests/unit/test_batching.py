"""Jobs of many requests become one batch: each gets its own rows back, and its own failures."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client import REGISTRY

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError, InvalidHead
from models.head import Kind, answers
from models.prepared import Deferred, Pass
from service.errors import UnknownBlob, WorkerFailed
from service.inference.batching import Answer, Head, HeadRef, Job, joined, split
from service.inference.running import Trunk, run_batch

RED, GREEN, GONE, BROKEN = (HeadRef(name, name) for name in ("red", "green", "gone", "broken"))


def mean_colour(pixels: UInt8Array) -> FloatArray:
    """(N, H, W, 3) -> (N, 3): an embedder that can be checked by eye."""
    return pixels.mean(axis=(1, 2), dtype=np.float32)


def trunk(embed: Callable[[UInt8Array], FloatArray]) -> Trunk:
    """A backbone with one stage, whose feature map is the embedding doubled."""
    give = {"embedding": embed, "stage": lambda pixels: embed(pixels) * 2}
    return Trunk(
        lambda pixels, outputs: Deferred(lambda: {name: give[name](pixels) for name in outputs}),
        frozenset(give),
    )


class Channel:
    """A head that answers one of the embedding's numbers, and counts its runs."""

    kind: Kind = "regression"
    size = 1

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.runs: list[int] = []

    def run(self, embeddings: FloatArray) -> FloatArray:
        self.runs.append(len(embeddings))
        return embeddings[:, self.channel : self.channel + 1]

    def logits(self, embeddings: FloatArray) -> FloatArray:
        return self.run(embeddings)


class Broken(Channel):
    def run(self, embeddings: FloatArray) -> FloatArray:
        raise ZeroDivisionError(str(len(embeddings)))


class Shelf:
    """The heads of these tests."""

    def __init__(self) -> None:
        self.held: dict[HeadRef, Head] = {RED: Channel(0), GREEN: Channel(1), BROKEN: Broken(0)}
        self.begun: list[HeadRef] = []
        self.late: set[HeadRef] = set()

    def begin(self, refs: list[HeadRef]) -> None:
        self.begun += refs

    def is_late(self, ref: HeadRef) -> bool:
        return ref in self.late

    def get(self, ref: HeadRef) -> Head:
        if ref not in self.held:
            raise UnknownBlob(ref.key)
        return self.held[ref]


def job(*colours: tuple[int, int, int], heads: tuple[HeadRef, ...] = (), embeddings: bool = False) -> Job:
    pixels = np.array(colours, np.uint8).reshape(-1, 1, 1, 3).repeat(4, 1).repeat(4, 2)
    return job_of(pixels, heads, embeddings=embeddings)


def job_of(pixels: UInt8Array, heads: tuple[HeadRef, ...] = (), *, embeddings: bool = False) -> Job:
    return Job(
        pixels=pixels.tobytes(),
        shape=pixels.shape,
        heads=heads,
        embeddings=embeddings,
        queued_at=0.0,
        deadline=1e12,
    )


def test_one_batch_mixes_tasks_and_runs_the_backbone_once():
    passes: list[int] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        passes.append(len(pixels))
        return mean_colour(pixels)

    jobs = [
        job((10, 20, 30), (40, 50, 60), heads=(RED,)),
        job((70, 80, 90), heads=(GREEN, RED)),
        job((1, 2, 3), embeddings=True),
    ]
    first, second, third = run_batch(jobs, trunk(embed), Shelf())

    assert passes == [4]
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert isinstance(third, Answer)
    assert [output.tolist() for output in first.outputs] == [[[10.0], [40.0]]]
    assert [output.tolist() for output in second.outputs] == [[[80.0]], [[70.0]]]
    assert first.embeddings is None
    assert third.embeddings.tolist() == [[1.0, 2.0, 3.0]]
    assert third.outputs == ()


def test_a_head_that_several_jobs_ask_for_runs_once_over_all_their_rows():
    shelf = Shelf()
    run_batch(
        [job((1, 1, 1), heads=(RED,)), job((2, 2, 2)), job((3, 3, 3), (4, 4, 4), heads=(RED,))],
        trunk(mean_colour),
        shelf,
    )
    red = shelf.held[RED]
    assert isinstance(red, Channel)
    assert red.runs == [3]


def test_every_head_of_the_batch_is_begun_before_the_backbone_runs():
    """A head that has to come from the store loads while the backbone computes."""
    shelf = Shelf()
    seen: list[HeadRef] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        seen.extend(shelf.begun)
        return mean_colour(pixels)

    run_batch([job((1, 1, 1), heads=(RED, GREEN)), job((1, 1, 1), heads=(GREEN,))], trunk(embed), shelf)
    assert seen == [RED, GREEN]


def test_a_head_that_fails_is_an_error_in_the_answers_that_asked_for_it_alone():
    jobs = [job((1, 2, 3), heads=(GONE, RED)), job((4, 5, 6), heads=(GREEN, BROKEN))]
    first, second = run_batch(jobs, trunk(mean_colour), Shelf())
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert isinstance(first.outputs[0], UnknownBlob)
    assert first.outputs[1].tolist() == [[1.0]]
    assert second.outputs[0].tolist() == [[5.0]]
    assert isinstance(second.outputs[1], InvalidHead)


def test_a_job_whose_head_is_late_comes_back_without_pixels_and_nobody_waits_for_it():
    """Asked again when the head is here, it needs no second pass, and answers as if it had not been late."""
    passes: list[int] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        passes.append(len(pixels))
        return mean_colour(pixels)

    shelf = Shelf()
    shelf.late = {GREEN}
    jobs = [job((1, 2, 3), heads=(RED, GREEN), embeddings=True), job((4, 5, 6), heads=(RED,))]
    left, answered = run_batch(jobs, trunk(embed), shelf)
    assert isinstance(answered, Answer)
    assert answered.outputs[0].tolist() == [[4.0]]
    assert isinstance(left, Job)
    assert left.pixels == b""
    (still,) = run_batch([left], trunk(embed), shelf)
    assert still == left

    shelf.late = set()
    (answer,) = run_batch([left], trunk(embed), shelf)
    assert isinstance(answer, Answer)
    assert answer.embeddings.tolist() == [[1.0, 2.0, 3.0]]
    assert [output.tolist() for output in answer.outputs] == [[[1.0]], [[2.0]]]
    assert passes == [2]


@pytest.mark.parametrize(
    "late",
    [
        HeadRef("tail", "tail", output="stage"),
        HeadRef("own", "own", output="pixels", input_size=4),
        HeadRef("flips", "flips", views=("as it is", "left-right")),
    ],
    ids=["tail", "network", "flips"],
)
def test_a_job_whose_tail_or_network_is_late_comes_back_as_it_was_before_any_pass(late):
    """A feature map or flips would be much to keep; others have their answers meanwhile."""
    passes: list[int] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        passes.append(len(pixels))
        return mean_colour(pixels)

    shelf = Shelf()
    shelf.late = {late}
    jobs = [job((1, 2, 3), heads=(RED, late)), job((4, 5, 6), heads=(RED,))]
    left, answered = run_batch(jobs, trunk(embed), shelf)
    assert left == jobs[0]
    assert isinstance(answered, Answer)
    assert passes == [1]
    assert run_batch([left], trunk(embed), shelf) == [left]
    assert passes == [1]

    shelf.late = set()
    shelf.held[late] = Channel(0)
    (answer,) = run_batch([left], trunk(embed), shelf)
    assert isinstance(answer, Answer)
    assert not any(isinstance(output, Exception) for output in answer.outputs)


def test_a_backbone_that_fails_is_the_answer_of_every_job_and_nothing_is_raised():
    def embed(_pixels: UInt8Array) -> FloatArray:
        raise MemoryError("out of memory")

    answers = run_batch([job((1, 2, 3)), job((1, 2, 3))], trunk(embed), Shelf())
    assert [type(answer) for answer in answers] == [BackboneError, BackboneError]
    assert "out of memory" in str(answers[0])


def test_a_probe_needs_no_backbone():
    def embed(_pixels: UInt8Array) -> FloatArray:
        raise AssertionError("nothing to embed")

    probe = Job(pixels=b"", shape=(0,), heads=(), embeddings=False, queued_at=0.0, deadline=1e12)
    assert run_batch([probe, probe], trunk(embed), Shelf()) == [Answer(None, ()), Answer(None, ())]


def test_a_probe_among_images_takes_no_row():
    probe = Job(pixels=b"", shape=(0,), heads=(), embeddings=False, queued_at=0.0, deadline=1e12)
    first, second = run_batch([probe, job((7, 8, 9), embeddings=True)], trunk(mean_colour), Shelf())
    assert first == Answer(None, ())
    assert isinstance(second, Answer)
    assert second.embeddings.tolist() == [[7.0, 8.0, 9.0]]


def test_a_known_embedding_passes_the_backbone_by_and_meets_the_head_of_its_batch():
    passes: list[int] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        passes.append(len(pixels))
        return mean_colour(pixels)

    known = np.array([[7, 8, 9], [10, 11, 12]], np.float32)
    jobs = [
        *split(known[:0], (RED,), embeddings=False, size=8, queued_at=0.0, deadline=1e12, known=known),
        job((1, 2, 3), heads=(RED, GREEN)),
    ]
    first, second = run_batch(jobs, trunk(embed), Shelf())
    assert passes == [1]
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert first.embeddings is None
    assert [output.tolist() for output in first.outputs] == [[[7.0], [10.0]]]
    assert [output.tolist() for output in second.outputs] == [[[1.0]], [[2.0]]]


def test_a_head_that_fails_on_a_known_embedding_is_an_error_in_its_answer_alone():
    known = np.array([[7, 8, 9]], np.float32)
    heads = (GONE, BROKEN, RED)
    jobs = split(known[:0], heads, embeddings=False, size=8, queued_at=0.0, deadline=1e12, known=known)
    (answer,) = run_batch(jobs, trunk(mean_colour), Shelf())
    assert isinstance(answer, Answer)
    assert [type(output) for output in answer.outputs[:2]] == [UnknownBlob, InvalidHead]
    assert answer.outputs[2].tolist() == [[7.0]]


def test_pixels_come_before_what_is_known_and_neither_job_is_larger_than_a_batch():
    pixels = np.arange(5, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    known = np.arange(10, 20, dtype=np.float32).reshape(-1, 1).repeat(3, axis=1)
    jobs = split(pixels, (RED,), embeddings=True, size=4, queued_at=0.0, deadline=1.0, known=known)
    answer = joined(run_batch(jobs, trunk(mean_colour), Shelf()))
    assert [each.images for each in jobs] == [4, 1, 4, 4, 2]
    assert answer.outputs[0][:, 0].tolist() == [*range(5), *range(10, 20)]
    assert answer.embeddings[:, 0].tolist() == list(range(5))


@pytest.mark.parametrize(("images", "sizes"), [(1, [1]), (8, [8]), (20, [8, 8, 4])])
def test_a_request_is_cut_into_jobs_of_a_batch_at_most_and_comes_back_in_order(images, sizes):
    pixels = np.arange(images, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    jobs = split(pixels, (RED, GREEN), embeddings=True, size=8, queued_at=0.0, deadline=1.0)
    answer = joined([answer for each in jobs for answer in run_batch([each], trunk(mean_colour), Shelf())])
    assert [each.images for each in jobs] == sizes
    assert answer.embeddings[:, 0].tolist() == list(range(images))
    assert [output[:, 0].tolist() for output in answer.outputs] == [list(range(images))] * 2


def test_a_head_that_failed_for_some_rows_has_failed():
    good, bad = np.ones((1, 2), np.float32), InvalidHead("damaged")
    answer = joined([Answer(None, (good, good)), Answer(None, (bad, good))])
    assert answer.outputs[0] is bad
    assert answer.outputs[1].shape == (2, 2)


def test_a_job_that_failed_as_a_whole_fails_the_request():
    with pytest.raises(WorkerFailed):
        joined([Answer(None, ()), WorkerFailed()])


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


def corner(pixels: UInt8Array) -> FloatArray:
    """(N, H, W, 3) -> (N, 3): an embedder that sees flips: the pixel at the top left."""
    return pixels[:, 0, 0].astype(np.float32)


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


FLIPS = ("as it is", "left-right", "top-bottom", "both")
FOUR = HeadRef("four", "four", "stage", FLIPS)
TWO = HeadRef("two", "two", "embedding", FLIPS[:2])
OWN = HeadRef("own", "own", "pixels")


def photos(count: int, size: int = 4) -> UInt8Array:
    return np.random.default_rng(count).integers(0, 4, (count, size, size, 3), dtype=np.uint8)


def backbone_images() -> float:
    return REGISTRY.get_sample_value("polyhead_backbone_images_total") or 0.0


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


class Network(Channel):
    """Takes pixels; answers one channel of the corner."""

    def run(self, pixels: UInt8Array) -> FloatArray:
        self.runs.append(len(pixels))
        return pixels[:, 0, 0, self.channel, None].astype(np.float32)


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


def test_every_alias_that_a_head_was_found_by_is_told_and_the_head_begun():
    """Two aliases of one version are two pins, and still one run."""
    shelf = Shelf()
    kept = HeadRef("red", "red", alias="task_1@production", pinned=True)
    other = HeadRef("red", "red", alias="task_1@candidate")
    run_batch([job_of(photos(1), (kept,)), job_of(photos(2), (other,))], trunk(corner), shelf)
    assert [(ref.alias, ref.pinned) for ref in shelf.begun] == [
        ("task_1@production", True),
        ("task_1@candidate", False),
    ]
    assert shelf.held[RED].runs == [3]


@pytest.mark.parametrize("rows", [1, 3])
def test_an_answer_crosses_the_channel_as_it_is(rows):
    rng = np.random.default_rng(rows)
    arrays = [rng.random((rows, width), dtype=np.float32) for width in (10, 1, 3)]
    for outputs in ((), arrays[:1], arrays, (arrays[0], WorkerFailed(), arrays[2], WorkerFailed())):
        sent = Answer(arrays[0], tuple(outputs))
        came = pickle.loads(pickle.dumps(sent))
        np.testing.assert_array_equal(came.embeddings, arrays[0])
        assert len(came.outputs) == len(outputs)
        for one, other in zip(outputs, came.outputs, strict=True):
            assert type(one) is type(other)
            if isinstance(one, np.ndarray):
                np.testing.assert_array_equal(one, other)
