import pytest
import torch

from autosample.data import augment as A
from autosample.errors import DataError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_flip_is_a_loop_over_images(dtype):
    x = torch.randint(0, 256, (40, 3, 6, 5), generator=generator()).to(dtype)
    got = A.RandomCropFlip(padding=2, flip=True)(x, generator(1))
    assert got.dtype == dtype
    draws = generator(1)
    top, left, mirror = (torch.randint(n, (40,), generator=draws).tolist() for n in (5, 5, 2))
    for i in range(40):
        padded = torch.zeros(3, 10, 9, dtype=dtype)
        padded[:, 2:8, 2:7] = x[i]
        want = padded[:, top[i] : top[i] + 6, left[i] : left[i] + 5]
        assert torch.equal(got[i], want.flip(-1) if mirror[i] else want)
    assert {0, 1} <= set(mirror)
    assert len(set(zip(top, left, strict=True))) > 10


def test_crop_flip_turned_off_does_nothing():
    x = torch.rand(4, 1, 5, 5)
    assert torch.equal(A.RandomCropFlip(0, False)(x, generator()), x)


def test_normalize_matches_torchvision():
    from torchvision.transforms import functional as TF

    x = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    want = TF.normalize(x.float() / 255, list(mean), list(std))
    torch.testing.assert_close(A.Normalize(mean, std)(x), want)
    torch.testing.assert_close(A.Normalize(mean, std)(x.float() / 255), want)
    with pytest.raises(DataError, match="std must be positive"):
        A.Normalize((0.5,), (0.0,))


def test_shift_and_crop_of_clips_are_slices():
    x = torch.arange(1, 51.0).view(1, 1, 50).repeat(30, 2, 1)
    shifted = A.RandomShift1d(4)(x, generator())
    assert shifted.shape == x.shape
    seen = set()
    for clip in shifted:
        first = clip[0].nonzero()[0].item() - (clip[0][clip[0] > 0][0].item() - 1)
        seen.add(first)
        want = torch.zeros(50)
        if first >= 0:
            want[int(first) :] = x[0, 0, : 50 - int(first)]
        else:
            want[: int(first)] = x[0, 0, -int(first) :]
        assert torch.equal(clip, want.repeat(2, 1))
    assert min(seen) >= -4
    assert max(seen) <= 4
    assert len(seen) > 4
    cropped = A.RandomCrop1d(20)(x, generator())
    starts = cropped[:, 0, 0]
    assert torch.equal(cropped[:, 0], starts[:, None] + torch.arange(20.0))
    assert torch.equal(A.CenterCrop1d(20)(x)[0, 0], torch.arange(16.0, 36.0))
    with pytest.raises(DataError, match="got 50 samples"):
        A.RandomCrop1d(51)(x, generator())


def test_gain_is_within_its_decibels_and_per_example():
    gain = A.RandomGain(6.0)(torch.ones(200, 1, 3), generator())
    decibels = 20 * gain[:, 0, 0].log10()
    assert decibels.abs().max() <= 6
    assert decibels.min() < -5
    assert decibels.max() > 5
    assert torch.equal(gain[..., :1].expand_as(gain), gain)


def test_noise_level_is_relative_to_each_example():
    x = torch.cat([torch.ones(1, 1, 20000), 10 * torch.ones(1, 1, 20000)])
    noise = A.AddNoise(0.1)(x, generator()) - x
    torch.testing.assert_close(noise.std(dim=-1).flatten(), torch.tensor([0.1, 1.0]), rtol=0.05, atol=0)


def test_random_steps_follow_the_generator_only():
    x = torch.rand(8, 1, 30)
    steps = A.Compose([A.RandomShift1d(3), None, A.RandomCrop1d(20), A.RandomGain(3), A.AddNoise(0.1)])
    first = steps(x, generator(3))
    torch.rand(7)  # the global generator must not matter
    assert torch.equal(first, steps(x, generator(3)))
    assert not torch.equal(first, steps(x, generator(4)))


def test_resize():
    x = torch.rand(2, 3, 8, 8)
    assert A.Resize(16)(x).shape == (2, 3, 16, 16)
    assert A.Resize(8)(x) is x


@pytest.mark.parametrize(
    "make",
    [
        lambda: A.RandomCropFlip(-1),
        lambda: A.RandomShift1d(-1),
        lambda: A.RandomCrop1d(0),
        lambda: A.RandomGain(-1),
        lambda: A.AddNoise(-0.5),
        lambda: A.Resize(0),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(DataError, match="must be at least"):
        make()


def runs(flags):
    """Lengths of the runs of true flags."""
    found, length = [], 0
    for flag in [*flags.tolist(), False]:
        if not flag and length:
            found.append(length)
        length = length + 1 if flag else 0
    return found


@pytest.mark.parametrize("count", [1, 2])
def test_masks_are_bands_and_times(count):
    x = torch.rand(2000, 1, 12, 30, generator=generator()) + 1
    got = A.SpecMask(4, 7, count)(x, generator(1))
    hidden = got == 0
    assert torch.equal(got[~hidden], x[~hidden])
    bands, times = hidden.all(3)[:, 0], hidden.all(2)[:, 0]
    assert torch.equal(hidden[:, 0], bands[:, :, None] | times[:, None])
    for flags, most in ((bands, 4), (times, 7)):
        lengths = [runs(one) for one in flags]
        assert max(map(len, lengths)) == count  # masks may touch
        assert {sum(one) for one in lengths} == set(range(count * most + 1))
        assert flags.any(0).all()  # every place is hidden at times, the first and the last too
    if count == 1:
        widths = torch.stack([times.sum(1) == width for width in range(8)]).float().mean(1)
        assert (widths - 0.125).abs().max() < 0.03  # all equally likely


def test_masks_of_one_kind_and_none():
    x = torch.ones(50, 2, 6, 9)
    assert torch.equal(A.SpecMask(0, 0)(x, generator()), x)
    bands = A.SpecMask(3, 0)(x, generator())
    assert torch.equal(bands, bands[:, :1, :, :1].expand_as(bands))  # all channels, all times
    assert torch.equal(bands, A.SpecMask(3, 0)(x, generator()))
    assert A.SpecMask(6, 9)(x, generator()).shape == x.shape
    with pytest.raises(DataError, match="at most as wide as the spectrograms, 6, got 7"):
        A.SpecMask(7, 0)(x, generator())


@pytest.mark.parametrize("make", [lambda: A.SpecMask(-1, 0), lambda: A.SpecMask(0, -1), lambda: A.SpecMask(1, 1, 0)])
def test_masks_that_cannot_be(make):
    with pytest.raises(DataError, match="must be at least"):
        make()
