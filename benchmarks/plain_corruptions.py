"""The recipe of the corruptions as one would write it for one image: baseline of a row of speeds.

Every function takes one image (H, W, C) with values in [0, 1], a severity and a random number
generator, and works with NumPy, SciPy and Pillow, channel by channel where those do. Constants are
those of the package; see `layerticket.data.corruptions` for their source.
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from layerticket.data.corruptions import blur, digital, frost, noise, weather


def corrupted(image: np.ndarray, name: str, severity: int, draws: np.random.Generator):
    """Corrupt one image (H, W, C) uint8."""
    return eight_bits(CORRUPTIONS[name](image / 255.0, severity - 1, draws))


def eight_bits(x):
    return (np.clip(x, 0, 1) * 255 + 1e-6).astype(np.uint8)  # a whole number stays what it is


def gaussian_noise(x, s, draws):
    return x + draws.normal(0, noise.GAUSSIAN[s], x.shape)


def shot_noise(x, s, draws):
    return draws.poisson(x * noise.SHOT[s]) / noise.SHOT[s]


def impulse_noise(x, s, draws):
    hit = draws.random(x.shape) < noise.IMPULSE[s]
    return np.where(hit, draws.random(x.shape) < 0.5, x)


def defocus_blur(x, s, draws):
    radius, smoothing = blur.DEFOCUS[s]
    rows, columns = np.mgrid[-3:4, -3:4]
    disc = (rows**2 + columns**2 <= radius**2).astype(float)
    disc = ndimage.gaussian_filter(disc / disc.sum(), smoothing, mode="constant", radius=1)
    return by_channel(x, lambda c: ndimage.correlate(c, disc, mode="mirror"))


def glass_blur(x, s, draws):
    sigma, rounds = blur.GLASS[s]
    x = eight_bits(by_channel(x, lambda c: ndimage.gaussian_filter(c, sigma, mode="nearest")))
    for _ in range(rounds):
        moves = draws.integers(0, 2, (*x.shape[:2], 2)).tolist()
        for row in range(len(x) - 1, 1, -1):
            for column in range(x.shape[1] - 1, 1, -1):
                up, left = moves[row][column]
                x[row, column] = x[row - up, column - left]
    return by_channel(x / 255, lambda c: ndimage.gaussian_filter(c, sigma, mode="nearest"))


def motion_blur(x, s, draws):
    return smeared(x, *blur.MOTION[s], draws.uniform(-45, 45))


def smeared(x, radius, sigma, degrees):
    """Blur along a line: half a Gaussian, whose taps read the nearest pixel."""
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    total, angle = np.zeros(x.shape), np.deg2rad(degrees)
    for tap, weight in enumerate(weights / weights.sum()):
        down = int(np.ceil(tap * np.sin(angle) - 0.5))
        right = int(np.ceil(tap * np.cos(angle) - 0.5))
        rows = np.clip(np.arange(x.shape[0]) + down, 0, x.shape[0] - 1)
        columns = np.clip(np.arange(x.shape[1]) + right, 0, x.shape[1] - 1)
        total += weight * x[rows][:, columns]
    return np.rint(total * 65535) // 257 / 255


def zoom_blur(x, s, draws):
    zoomed = [enlarged(x, factor) for factor in blur.ZOOM[s]]
    return (x + sum(zoomed)) / (len(zoomed) + 1)


def enlarged(x, factor):
    """Zoom into the middle."""
    side = int(np.ceil(len(x) / factor))
    top = (len(x) - side) // 2
    big = ndimage.zoom(x[top : top + side, top : top + side], (factor, factor, 1), order=1)
    trim = (len(big) - len(x)) // 2
    return big[trim : trim + len(x), trim : trim + len(x)]


def snow(x, s, draws):
    mean, deviation, zoom, threshold, radius, sigma, weight = weather.SNOW[s]
    flakes = enlarged(draws.normal(mean, deviation, (*x.shape[:2], 1)), zoom)
    flakes[flakes < threshold] = 0
    flakes = smeared(eight_bits(flakes) / 255, radius, sigma, draws.uniform(-135, -45))
    gray = np.asarray(Image.fromarray(eight_bits(x)).convert("L"))[..., None] / 255
    white = np.maximum(x, 1.5 * gray + 0.5)
    return weight * x + (1 - weight) * white + flakes + np.rot90(flakes, 2)


def frost_like(x, s, draws):
    image_weight, frost_weight = frost.FROST[s]
    textures = frost._generated()
    texture = textures[draws.integers(len(textures))].transpose(1, 2, 0)
    top, left = (draws.integers(texture.shape[i] - x.shape[i]) for i in (0, 1))
    crop = texture[top : top + x.shape[0], left : left + x.shape[1]]
    return image_weight * x + frost_weight * crop


def fog(x, s, draws):
    amount, decay = weather.FOG[s]
    haze = plasma(len(x), decay, draws)[: x.shape[0], : x.shape[1], None]
    return (x + amount * haze) * x.max() / (x.max() + amount)


def plasma(size, decay, draws):
    """Draw a height map in [0, 1] with the diamond-square algorithm on a torus."""
    side = 1 << (size - 1).bit_length()
    ground, step, rough = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half = step // 2
        corners = ground[::step, ::step]
        below, right = np.roll(corners, -1, axis=0), np.roll(corners, -1, axis=1)
        total = corners + below + right + np.roll(below, -1, axis=1)
        middles = total / 4 + rough * draws.uniform(-rough, rough, total.shape)
        flat = corners + right + middles + np.roll(middles, 1, axis=0)
        steep = corners + below + middles + np.roll(middles, 1, axis=1)
        ground[half::step, half::step] = middles
        ground[::step, half::step] = flat / 4 + rough * draws.uniform(-rough, rough, flat.shape)
        ground[half::step, ::step] = steep / 4 + rough * draws.uniform(-rough, rough, flat.shape)
        step, rough = half, rough / decay
    ground -= ground.min()
    return ground / ground.max()


def brightness(x, s, draws):
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + weather.BRIGHTNESS[s], 1)
    return np.where(value > 0, x * raised / np.maximum(value, 1e-9), raised)


def contrast(x, s, draws):
    mean = x.mean(axis=(0, 1))
    return (x - mean) * digital.CONTRAST[s] + mean


def elastic_transform(x, s, draws):
    amplitude, smoothness, shift = (32 * value for value in digital.ELASTIC[s])
    height, width = x.shape[:2]
    reach = min(height, width) // 3
    points = np.array([height // 2, width // 2]) + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = np.hstack([points + draws.uniform(-shift, shift, (3, 2)), np.ones((3, 1))])
    back = np.linalg.solve(moved, points)  # (3, 2), from new to old points (x, y)
    rows, columns = np.mgrid[:height, :width]
    old = np.stack([columns, rows, np.ones_like(rows)], axis=2) @ back
    x = by_channel(x, lambda c: sampled(c, old[..., 1], old[..., 0], "mirror"))
    fields = draws.uniform(-1, 1, (2, height, width))
    down, right = (
        amplitude * ndimage.gaussian_filter(field, smoothness, mode="reflect", truncate=3)
        for field in fields
    )
    return by_channel(x, lambda c: sampled(c, rows + down, columns + right, "reflect"))


def sampled(channel, rows, columns, mode):
    return ndimage.map_coordinates(channel, (rows, columns), order=1, mode=mode)


def pixelate(x, s, draws):
    image, share = Image.fromarray(eight_bits(x)), digital.PIXELATE[s]
    small = image.resize((int(x.shape[1] * share), int(x.shape[0] * share)), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BOX)) / 255


def jpeg_compression(x, s, draws):
    file = io.BytesIO()
    Image.fromarray(eight_bits(x)).save(file, "JPEG", quality=digital.QUALITY[s])
    return np.asarray(Image.open(file)) / 255


def by_channel(x, change):
    return np.stack([change(x[..., channel]) for channel in range(x.shape[2])], axis=2)


CORRUPTIONS = {
    one.__name__: one
    for one in (
        *(gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur),
        *(zoom_blur, snow, frost_like, fog, brightness, contrast, elastic_transform),
        *(pixelate, jpeg_compression),
    )
}
