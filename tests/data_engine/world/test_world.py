from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.world import CLASSES, DOMAINS, render, select_domains
from data_engine.world.appearance import APPEARANCES
from data_engine.world.camera import stand
from data_engine.world.layouts import LAYOUTS
from data_engine.world.materials import PATTERNS, Material, mix_of, noise_tile, paint
from data_engine.world.raycast import first_hits
from data_engine.world.scene import CLASS_ID
from data_engine.world.shapes import Box, Ellipsoid, Frustum, Plane, Terrain, turn, vector
from depth_anything_train.runtime import UserError

SMALL = {"height": 42, "width": 56}
angles = st.floats(-3.0, 3.0)
lengths = st.floats(0.3, 2.0)


def rays_at(target: np.ndarray, spread: float = 0.5, count: int = 200) -> np.ndarray:
    """Directions (3, N) from the origin towards the surroundings of a point, forward component 1."""
    rng = np.random.default_rng(0)
    ends = target[:, None] + rng.normal(0, spread, (3, count))
    ends[2] = np.maximum(ends[2], 0.5)
    return (ends / ends[2]).astype(np.float32)


def first_inside(inside, rays: np.ndarray, far: float = 12.0, steps: int = 12000) -> np.ndarray:
    """First t at which a ray is inside a solid, found by walking in small steps; inf where it never is."""
    t = np.linspace(0.06, far, steps)[:, None]
    points = t[None] * rays.astype(np.float64)[:, None, :]
    within = inside(points)
    return np.where(within.any(axis=0), t[np.argmax(within, axis=0), 0], np.inf)


def assert_same_hits(shape, inside, rays: np.ndarray) -> None:
    found, expected = shape.hit(vector(0, 0, 0), rays), first_inside(inside, rays)
    both = np.isfinite(found) & np.isfinite(expected)
    # Walking may step over a grazed edge; hitting never invents one.
    assert (np.isfinite(found) != np.isfinite(expected)).mean() < 0.03
    assert np.abs(found[both] - expected[both]).max(initial=0) < 5e-3


@settings(max_examples=25, deadline=None)
@given(x=st.floats(-1, 1), y=st.floats(-1, 1), z=st.floats(4, 7), a=lengths, b=lengths, c=lengths, yaw=angles)
def test_box__is_hit_where_a_walk_along_the_ray_enters_it(x, y, z, a, b, c, yaw):
    shape = Box(centre=vector(x, y, z), half=vector(a, b, c), yaw=yaw)

    def inside(points):
        local = turn(points - np.array([x, y, z]).reshape(3, 1, 1), -yaw)
        return (np.abs(local) <= np.array([a, b, c]).reshape(3, 1, 1)).all(axis=0)

    assert_same_hits(shape, inside, rays_at(np.array([x, y, z]), spread=1.5))


@settings(max_examples=25, deadline=None)
@given(x=st.floats(-1, 1), y=st.floats(-1, 1), z=st.floats(4, 7), a=lengths, b=lengths, c=lengths, yaw=angles)
def test_ellipsoid__is_hit_where_a_walk_along_the_ray_enters_it(x, y, z, a, b, c, yaw):
    shape = Ellipsoid(centre=vector(x, y, z), radii=vector(a, b, c), yaw=yaw)

    def inside(points):
        local = turn(points - np.array([x, y, z]).reshape(3, 1, 1), -yaw)
        return np.square(local / np.array([a, b, c]).reshape(3, 1, 1)).sum(axis=0) <= 1

    assert_same_hits(shape, inside, rays_at(np.array([x, y, z]), spread=1.5))


@settings(max_examples=25, deadline=None)
@given(x=st.floats(-1, 1), y=st.floats(-3, 1), z=st.floats(4, 7), h=lengths, r=lengths, top=st.floats(0.01, 2.0))
def test_frustum__is_hit_where_a_walk_along_the_ray_enters_it(x, y, z, h, r, top):
    shape = Frustum(base=vector(x, y, z), height=h, bottom=r, top=top)

    def inside(points):
        up = points[1] - y
        radius = r + (top - r) * up / h
        return (up >= 0) & (up <= h) & (np.hypot(points[0] - x, points[2] - z) <= radius)

    assert_same_hits(shape, inside, rays_at(np.array([x, y + h / 2, z]), spread=1.5))


@settings(max_examples=15, deadline=None)
@given(height=st.floats(0.2, 1.5), length=st.floats(15, 60), phase=angles, eye=st.floats(1.0, 4.0))
def test_terrain__is_hit_on_its_surface_and_not_before(height, length, phase, eye):
    ground = Terrain(((height, 2 * math.pi / length, 0.1, phase),))
    origin = vector(0, height + eye, 0)
    rays = rays_at(np.array([0.0, -1.0, 5.0]), spread=1.0)
    t = ground.hit(origin, rays)
    landed = np.isfinite(t)
    assert landed.any()
    assert np.abs(ground.above(origin, rays[:, landed], t[landed])).max() < 2e-3
    for share in np.linspace(0.02, 0.98, 25, dtype=np.float32):
        assert (ground.above(origin, rays[:, landed], share * t[landed]) > -2e-2).all()


@pytest.mark.parametrize(
    "shape",
    [
        Box(centre=vector(0.2, 0.1, 5), half=vector(0.5, 0.7, 0.6), yaw=0.4),
        Ellipsoid(centre=vector(0.2, 0.1, 5), radii=vector(0.5, 0.7, 0.6), yaw=0.4),
        Frustum(base=vector(0.1, -1.5, 5), height=1.2, bottom=0.7, top=0.3),
        Plane(level=-1.0),
        Terrain(((0.2, 0.3, 0.1, 0.5),)),
    ],
    ids=lambda shape: type(shape).__name__,
)
def test_surface__has_unit_normals_that_face_the_ray_and_agree_with_the_slope(shape):
    origin = vector(0, 0.5, 0)
    rays = rays_at(np.array([0.1, -0.9, 5.0]), spread=0.4)
    t = shape.hit(origin, rays)
    landed = np.isfinite(t)
    points = origin[:, None] + t[landed] * rays[:, landed]
    normals, uv = shape.surface(points)
    assert uv.shape == (2, landed.sum()) and np.isfinite(uv).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)
    assert ((normals * rays[:, landed]).sum(axis=0) < 1e-3).all()
    # A ray beside it lands, where it is the same face, on the tangent plane.
    beside = rays[:, landed] + np.array([[1e-3], [5e-4], [0]], np.float32)
    t_beside = shape.hit(origin, beside)
    moved = origin[:, None] + t_beside * beside - points
    off_plane = np.abs((moved * normals).sum(axis=0)) / np.linalg.norm(moved, axis=0)
    assert np.median(off_plane[np.isfinite(t_beside)]) < 0.03


@pytest.mark.parametrize("geometry", LAYOUTS)
def test_windows__hide_no_part_of_any_shape(geometry):
    for index in range(3):
        scene = LAYOUTS[geometry](APPEARANCES["wild"], np.random.default_rng(index))
        rays = scene.camera.rays(**SMALL)
        depth_m, _ = first_hits(scene, rays)
        everywhere = np.min([part.shape.hit(scene.camera.position, rays) for part in scene.parts], axis=0)
        np.testing.assert_allclose(depth_m, everywhere, rtol=1e-5)  # SIMD rounds by position


def test_camera__sees_a_ball_where_projection_puts_it():
    camera = stand(0.3, 1.2, -0.5, yaw=20, pitch=-10, roll=7, view=70)
    rays = camera.rays(84, 112)
    focal = 56 / math.tan(math.radians(35))
    point = camera.position + camera.rotation() @ vector(0.4, -0.3, 2.0)
    ball = Ellipsoid(centre=point, radii=vector(0.05, 0.05, 0.05))
    rows, columns = np.nonzero(np.isfinite(ball.hit(camera.position, rays)))
    assert abs(columns.mean() + 0.5 - (56 + focal * 0.2)) < 0.5
    assert abs(rows.mean() + 0.5 - (42 + focal * 0.15)) < 0.5


def test_render__is_a_pure_function_of_its_arguments():
    one = render("street-dusk", seed=3, index=5, **SMALL)
    render("room-day", seed=3, index=5, **SMALL)
    again = render("street-dusk", seed=3, index=5, **SMALL)
    for name in ("image", "depth_m", "sky", "classes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    for other in ({"seed": 4, "index": 5}, {"seed": 3, "index": 6}):
        assert (render("street-dusk", **other, **SMALL).depth_m != one.depth_m).mean() > 0.5


@pytest.mark.parametrize("domain", DOMAINS)
def test_render__gives_a_sound_picture_of_every_domain(domain):
    drawn = render(domain, seed=1, index=0, **SMALL)
    assert drawn.image.shape == (42, 56, 3) and drawn.image.dtype == np.uint8
    assert drawn.depth_m.shape == drawn.sky.shape == drawn.classes.shape == (42, 56)
    assert drawn.depth_m.dtype == np.float32 and (drawn.depth_m > 0).all()
    np.testing.assert_array_equal(drawn.sky, np.isinf(drawn.depth_m))
    np.testing.assert_array_equal(drawn.sky, drawn.classes == CLASS_ID["sky"])
    assert drawn.classes.max() < len(CLASSES)
    assert drawn.image.std() > 1


@pytest.mark.parametrize("domain", ["room-day", "land-vivid", "street-night"])
def test_render__depth_is_that_of_the_pixel_centre(domain):
    """The middle pixel of three has the centre of the one it splits, so its depth must agree."""
    coarse, fine = render(domain, seed=2, index=1, **SMALL), render(domain, seed=2, index=1, height=126, width=168)
    same = np.isclose(fine.depth_m[1::3, 1::3], coarse.depth_m, rtol=1e-3)
    assert same.mean() > 0.995  # rounding may move the silhouette of a far thing by a pixel


def test_render__shows_every_class_somewhere():
    found: set[int] = set()
    for index in range(25):
        for geometry in LAYOUTS:
            found |= set(np.unique(render(f"{geometry}-day", seed=0, index=index, **SMALL).classes).tolist())
    assert found == set(range(len(CLASSES)))


def test_render__appearance_changes_the_light():
    day, night = ([render(f"street-{a}", seed=0, index=i, **SMALL).image for i in range(8)] for a in ("day", "night"))
    assert np.mean(night) < 0.7 * np.mean(day)
    grey = render("street-old", seed=0, index=0, **SMALL).image.astype(float)
    colour = render("street-vivid", seed=0, index=0, **SMALL).image.astype(float)
    assert np.ptp(grey, axis=2).mean() < np.ptp(colour, axis=2).mean()


def test_render__unknown_domain_names_the_known_ones():
    with pytest.raises(UserError, match="room-day"):
        render("room-noon", seed=0, index=0)


def test_select_domains__star_stands_for_any():
    assert select_domains(["*-day"]) == [f"{geometry}-day" for geometry in LAYOUTS]
    assert select_domains(["room-*", "room-day"]) == [f"room-{appearance}" for appearance in APPEARANCES]
    assert select_domains(["*-*"]) == list(DOMAINS)
    with pytest.raises(UserError, match="sea-day"):
        select_domains(["sea-day"])


@pytest.mark.parametrize("pattern", range(len(PATTERNS)), ids=PATTERNS)
def test_mix_of__fades_into_its_true_mean(pattern):
    u, v = np.random.default_rng(0).uniform(0, 240, (2, 40000)).astype(np.float32)
    mix, mean = mix_of(pattern, u, v)
    assert mix.min() >= 0 and mix.max() <= 1
    assert abs(mix.mean() - mean) < 0.03


def test_noise_tile__is_flat_and_meets_itself_at_the_edges():
    tile = noise_tile()
    assert abs(tile.mean() - 0.5) < 1e-3
    inner = np.abs(np.diff(tile, axis=0)).mean()
    assert np.abs(tile[0] - tile[-1]).mean() < 2 * inner
    assert np.abs(tile[:, 0] - tile[:, -1]).mean() < 2 * inner


def test_paint__a_pattern_finer_than_the_pixel_is_its_mean():
    dark, bright = (0.2, 0.2, 0.2), (0.8, 0.8, 0.8)
    stripes = Material(dark, bright, pattern=PATTERNS.index("stripes"), period=0.1, grain=0)
    uv, which = np.random.default_rng(0).uniform(0, 9, (2, 500)).astype(np.float32), np.zeros(500, np.int16)
    far, _ = paint([stripes], which, uv, np.full(500, 0.2, np.float32))
    near, _ = paint([stripes], which, uv, np.full(500, 0.001, np.float32))
    np.testing.assert_allclose(far, 0.5, atol=1e-6)
    assert set(np.unique(near.round(3))) == {np.float32(0.2), np.float32(0.8)}


@pytest.mark.parametrize("domain", ["room-day", "corridor-night", "street-day"])
def test_render__with_one_height_and_lens_the_ground_says_how_far_it_is(domain):
    """Every pixel of the floor lies where its ray meets the ground 1.6 m below the camera."""
    drawn = render(domain, seed=1, index=2, height=84, width=112, eye_m=1.6, view_deg=65.0)
    assert drawn.focal == pytest.approx(56 / np.tan(np.radians(32.5)))
    rows, columns = np.nonzero(np.isin(drawn.classes, [CLASS_ID["floor"], CLASS_ID["road"]]))
    assert len(rows) > 50
    x, y = (columns + 0.5 - 56) / drawn.focal, (rows + 0.5 - 42) / drawn.focal
    # The ground is a plane 1.6 m away: a x + b y + c = 1.6 / depth for a unit vector (a, b, c).
    directions = np.stack([x, y, np.ones_like(x)], axis=1)
    normal, *_ = np.linalg.lstsq(directions, 1 / drawn.depth_m[rows, columns], rcond=None)
    assert np.linalg.norm(normal) == pytest.approx(1 / 1.6, rel=0.02)
