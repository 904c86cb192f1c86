"""Pictures from signed distances: negative inside a shape, positive outside, its size the distance to the edge.

A pixel whose centre lies d pixels from the edge is covered by about 1/2 - d: that alone gives clean edges at any size,
with no supersampling. Each object is computed only inside its box. The formulas for star and heart follow
I. Quilez, "2D distance functions". Only + - * / sqrt min max are used on pixels, so every device draws the same.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mmlearn.scenes.sampling import Scenes

RGB = torch.tensor(
    [
        [0.90, 0.20, 0.22], [0.98, 0.52, 0.08], [0.98, 0.82, 0.14], [0.20, 0.64, 0.32], [0.12, 0.76, 0.80],
        [0.16, 0.40, 0.87], [0.52, 0.26, 0.80], [0.97, 0.53, 0.76], [0.60, 0.36, 0.18], [0.53, 0.56, 0.61],
    ]
)  # fmt: skip
# Top-left and bottom-right colour of each background, in the order of BACKGROUNDS.
GRADIENTS = torch.tensor(
    [
        [[1.00, 0.96, 0.91], [0.98, 0.85, 0.85]],
        [[0.95, 0.99, 0.95], [0.80, 0.92, 0.88]],
        [[0.95, 0.98, 1.00], [0.80, 0.88, 0.97]],
        [[0.99, 0.98, 0.94], [0.91, 0.88, 0.82]],
        [[0.27, 0.20, 0.36], [0.11, 0.10, 0.20]],
        [[0.10, 0.16, 0.27], [0.03, 0.06, 0.12]],
    ]
)
RADII = torch.tensor([0.107, 0.154])  # of small and big objects, in pictures
CENTRES = torch.tensor([0.185, 0.5, 0.815])
SHADOW_SHIFT, SHADOW_BLUR, SHADOW = (0.008, 0.018), 0.045, 0.34
HALF_BOX = 0.165 + 0.018 + 0.045  # the farthest that an object and its shadow reach from its centre
PIXELS_AT_ONCE = 1 << 17  # patches of more pixels are drawn in several goes, to stay in the processor's cache


def _length(x, y):
    return (x * x + y * y).sqrt()


def _box(x, y, half_width, half_height, rounding=0.0):
    dx, dy = x.abs() - (half_width - rounding), y.abs() - (half_height - rounding)
    return _length(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - rounding


def _circle(x, y):
    return _length(x, y) - 0.93


def _square(x, y):
    return _box(x, y, 0.86, 0.86, 0.06)


def _triangle(x, y):
    side = 0.8660 * x.abs() - 0.5 * (y + 0.96)
    return torch.maximum(side, y - 0.70) - 0.02


def _star(x, y, radius=1.02, inner=0.47):
    (ax, ay), (bx, by) = (0.809017, -0.587785), (-0.809017, -0.587785)
    x, y = x.abs(), 0.04 - y
    fold = 2 * (ax * x + ay * y).clamp(min=0)
    x, y = x - fold * ax, y - fold * ay
    fold = 2 * (bx * x + by * y).clamp(min=0)
    x, y = (x - fold * bx).abs(), y - fold * by - radius
    ex, ey = inner * -ay, inner * ax - 1
    along = ((x * ex + y * ey) / (ex * ex + ey * ey)).clamp(0, radius)
    return _length(x - ex * along, y - ey * along) * (y * ex - x * ey).sign()


def _heart(x, y):
    scale = 1.62
    x, y = x.abs() / scale, (0.88 - y) / scale
    lobe = _length(x - 0.25, y - 0.75) - 0.353553
    diagonal = 0.5 * (x + y).clamp(min=0)
    point = torch.minimum(_length(x, y - 1), _length(x - diagonal, y - diagonal)) * (x - y).sign()
    return torch.where(x + y > 1, lobe, point) * scale


def _ring(x, y):
    return (_length(x, y) - 0.70).abs() - 0.25


def _moon(x, y):
    return torch.maximum(_length(x + 0.05, y) - 0.94, 0.74 - _length(x - 0.42, y + 0.14))


def _cross(x, y):
    return torch.minimum(_box(x, y, 0.92, 0.31, 0.06), _box(x, y, 0.31, 0.92, 0.06))


def _diamond(x, y):
    return 0.8000 * x.abs() + 0.6000 * y.abs() - 0.6000


def _bar(x, y):
    return _box(x, y, 1.0, 0.36, 0.12)


DISTANCES = (_circle, _square, _triangle, _star, _heart, _ring, _moon, _cross, _diamond, _bar)  # as in SHAPES


@lru_cache(maxsize=16)
def _backgrounds(image_size: int) -> Float[Tensor, "6 3 H W"]:
    t = (torch.arange(image_size) + 0.5) / image_size
    y, x = t[:, None], t[None, :]
    along = (0.35 * x + 0.65 * y)[None, None]
    glow = (1 - 2.2 * ((x - 0.3) ** 2 + (y - 0.25) ** 2)).clamp(min=0)[None, None]
    start, end = GRADIENTS[:, 0, :, None, None], GRADIENTS[:, 1, :, None, None]
    return start + (end - start) * along + glow * torch.tensor([0.02] * 4 + [0.07] * 2)[:, None, None, None]


class _Patches:
    """The boxes of N objects: where each lies, and every pixel's distance to its shape, in pictures."""

    def __init__(self, scenes: Scenes, row: Tensor, slot: Tensor, image_size: int, device):
        def of(attribute):
            return attribute[row, slot].to(device)

        self.shape, self.image_size = of(scenes.shape), image_size
        self.colour, self.fill, cell = of(scenes.colour), of(scenes.fill), of(scenes.cell)
        self.radius = RADII.to(device)[of(scenes.size)]
        centres = CENTRES.to(device)
        self.x, self.y = centres[cell % 3] + of(scenes.dx), centres[cell // 3] + of(scenes.dy)
        self.cos, self.sin = (f(scenes.tilt[row, slot]).to(device) for f in (torch.cos, torch.sin))
        self.width = min(image_size, int(2 * HALF_BOX * image_size) + 2)
        self.left, self.top = (self._corner(centre) for centre in (self.x, self.y))

    def _corner(self, centre):
        corner = (centre * self.image_size - self.width / 2 + 0.5).floor().long()
        return corner.clamp(0, self.image_size - self.width)

    def pixels(self):
        """The flat number in the picture of every pixel: (N, P * P)."""
        step = torch.arange(self.width, device=self.left.device)
        rows, columns = self.top[:, None] + step, self.left[:, None] + step
        return (rows[:, :, None] * self.image_size + columns[:, None, :]).flatten(1)

    def coordinates(self, shift=(0.0, 0.0)):
        """x and y of every pixel from the object's centre, in radii, turned back by its tilt: two of (N, P * P)."""
        step = torch.arange(self.width, device=self.left.device) + 0.5
        x = ((self.left[:, None] + step) / self.image_size - self.x[:, None] - shift[0]) / self.radius[:, None]
        y = ((self.top[:, None] + step) / self.image_size - self.y[:, None] - shift[1]) / self.radius[:, None]
        cos, sin = self.cos[:, None], self.sin[:, None]
        turned_x = (cos * x)[:, None, :] + (sin * y)[:, :, None]
        turned_y = (cos * y)[:, :, None] - (sin * x)[:, None, :]
        return turned_x.flatten(1), turned_y.flatten(1)

    def distances(self, x, y):
        """Signed distance to each object's shape, in pictures: (N, P * P). `shape` must be sorted."""
        ends = torch.bincount(self.shape, minlength=len(DISTANCES)).cumsum(0).tolist()
        parts = [f(x[a:b], y[a:b]) for f, a, b in zip(DISTANCES, [0, *ends], ends, strict=False) if b > a]
        return torch.cat(parts) * self.radius[:, None]


def _paint(patches: _Patches, x, y, distance) -> Float[Tensor, "N 3 PP"]:
    """The colour of each pixel of each object: its fill, lit from above, a shade darker along the edge."""
    size, radius = patches.image_size, patches.radius[:, None]
    ink = _pattern(patches, x, y, distance)[:, None]
    light = 1.07 - 0.13 * (y + 0.4 * x)
    if size >= 48:  # on fewer pixels the darker edge would only dull the colour
        light = light - 0.16 * (1 + distance / (0.22 * radius)).clamp(0, 1)
    colour = RGB.to(x.device)[patches.colour][:, :, None] * light[:, None]
    pale = 0.74 + 0.26 * RGB.to(x.device)[patches.colour][:, :, None]
    return pale + (colour - pale) * ink


def _pattern(patches: _Patches, x, y, distance) -> Float[Tensor, "N PP"]:
    """How much of each pixel is inked, between 0 (pale) and 1 (full colour), by the object's fill."""
    size, ink = patches.image_size, torch.ones_like(x)
    scale = patches.radius[:, None]

    def covered(d):
        return (0.5 - d * size).clamp(0, 1)

    for fill in (1, 2, 3):
        rows = (patches.fill == fill).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        px, py, d = x[rows] * scale[rows], y[rows] * scale[rows], distance[rows]
        if fill == 1:
            u = (px + py) * 0.70711 / 0.094
            pale = ((u - u.floor()) - 0.5).abs() * 0.094 - 0.0235
        elif fill == 2:
            u, v = px / 0.088, py / 0.088
            pale = _length(u - u.round(), v - v.round()) * 0.088 - 0.028
        else:
            pale = d + 0.034
        ink[rows] = 1 - covered(torch.maximum(pale, d + 0.012))  # a rim keeps the outline
    return ink


def _chunks(scenes: Scenes, image_size: int):
    per_scene = max(1, int(scenes.n_objects.max())) * (2 * HALF_BOX * image_size + 2) ** 2
    step = max(1, int(PIXELS_AT_ONCE / per_scene))
    return (scenes[i : i + step] for i in range(0, len(scenes), step))


def _sorted_objects(scenes: Scenes) -> tuple[Tensor, Tensor]:
    row, slot = (scenes.shape >= 0).nonzero().unbind(1)
    order = scenes.shape[row, slot].argsort(stable=True)
    return row[order], slot[order]


def draw(scenes: Scenes, image_size: int = 32, device=None) -> UInt8[Tensor, "B 3 H W"]:
    """Draws the scenes at any size from 16 pixels on.

    Args: scenes, from `World.scenes` or `compose`; image_size, pixels along each side; device, where to draw
    (default: CPU).
    Returns: uint8 pictures (B, 3, H, W) on that device, equal on every device up to one level of rounding.
    """
    out = torch.empty(len(scenes), 3, image_size, image_size, dtype=torch.uint8, device=device)
    done = 0
    for part in _chunks(scenes, image_size) if len(scenes) else ():
        out[done : done + len(part)] = _draw(part, image_size, device)
        done += len(part)
    return out


def _draw(scenes: Scenes, image_size: int, device) -> UInt8[Tensor, "B 3 H W"]:
    picture = _backgrounds(image_size).to(device)[scenes.background.to(device)].flatten(2)
    row, slot = _sorted_objects(scenes)
    patches = _Patches(scenes, row, slot, image_size, device)
    x, y = patches.coordinates()
    distance = patches.distances(x, y)
    alpha = (0.5 - distance * image_size).clamp(0, 1)
    paint = _paint(patches, x, y, distance)
    behind = patches.distances(*patches.coordinates(SHADOW_SHIFT))
    shade = (0.5 - behind / (2 * SHADOW_BLUR)).clamp(0, 1)
    keep = 1 - SHADOW * shade * shade * (3 - 2 * shade)
    pixels = patches.pixels()
    for k in range(scenes.shape.shape[1]):  # the last object lies on top
        of_slot = (slot == k).nonzero()[:, 0].to(picture.device)
        if len(of_slot) == 0:
            continue
        rows = row.to(picture.device)[of_slot]
        index = (rows[:, None, None] * 3 + torch.arange(3, device=picture.device)[:, None]) * picture.shape[2]
        index = index + pixels[of_slot][:, None]
        under = picture.view(-1)[index] * keep[of_slot][:, None]
        picture.view(-1)[index] = under + (paint[of_slot] - under) * alpha[of_slot][:, None]
    return (picture.clamp(0, 1) * 255 + 0.5).to(torch.uint8).unflatten(2, (image_size, image_size))


def masks(scenes: Scenes, image_size: int = 32, visible: bool = True) -> Bool[Tensor, "B 4 H W"]:
    """The pixels of each object, in the order of `scenes.shape`: those whose centre lies inside the shape.

    Args: visible, leave out the pixels that a later object covers (default); False gives whole shapes.
    Returns: bool (B, 4, H, W), all False for absent objects. A hollow object's inside belongs to it; a ring's hole does
    not.
    """
    mask = torch.zeros(len(scenes), 4, image_size * image_size, dtype=torch.bool)
    if len(scenes):
        row, slot = _sorted_objects(scenes)
        patches = _Patches(scenes, row, slot, image_size, None)
        mask[row[:, None], slot[:, None], patches.pixels()] = patches.distances(*patches.coordinates()) < 0
    if visible:
        covered = mask.flip(1).long().cumsum(1).flip(1) - mask.long()
        mask &= covered == 0
    return mask.unflatten(2, (image_size, image_size))


def boxes(scenes: Scenes, image_size: int = 32) -> Float[Tensor, "B 4 4"]:
    """The tight box of each whole shape: left, top, right, bottom in pixels, the last two exclusive; zeros if absent.

    Returns: float (B, 4, 4), the objects in the order of `scenes.shape`.
    """
    mask = masks(scenes, image_size, visible=False)
    sides = []
    for line in (mask.any(2), mask.any(3)):  # columns, then rows
        line = line.float()
        sides.append((line.argmax(2), (image_size - line.flip(2).argmax(2)) * line.amax(2)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], 2).float()
