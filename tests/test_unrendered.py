"""What is never rendered is smaller, and moves to the last bit as the whole does."""

import contextlib

import mujoco
import numpy as np
import pytest
from conftest import LONG

from qgf_jax.envs import ogbench, unrendered

NAMES = ("scene-play-singletask-v0", "cube-double-play-singletask-v0")
MORE = (
    "cube-single-play-singletask-v0",
    "cube-quadruple-play-v0",
    "puzzle-3x3-play-singletask-v0",
    "puzzle-4x6-play-singletask-v0",
    "scene-play-oraclerep-task4-v0",
    "antmaze-large-navigate-singletask-v0",
    "antsoccer-arena-navigate-singletask-v0",
    "humanoidmaze-medium-navigate-singletask-v0",
    "pointmaze-teleport-navigate-singletask-v0",
)
MEGABYTE = 2**20
PARTS = ("mesh_", "tex_", "bvh_", "name", "path")


def world(name, smaller):
    with unrendered.models() if smaller else contextlib.nullcontext() as forget_files:
        found = ogbench.FAMILY.make(ogbench.FAMILY.parse(name).with_task(2))
        found.reset(0)
        if smaller:
            forget_files(found.env)
    return found


def played(found, seeds=(1, 2), steps=30):
    """All that is seen, and the whole state, of episodes in which the arm presses on the table."""
    data, seen, rng = found.env.unwrapped.data, [], np.random.default_rng(0)
    for seed in seeds:
        seen.append(found.reset(seed))
        for _ in range(steps):
            action = rng.uniform(-1, 1, found.env.action_space.shape)
            action[2:3] = -1.0
            obs, reward, done, info = found.step(action.astype(np.float32))
            state = (data.qpos, data.qvel, data.qacc, data.geom_xpos.ravel(), data.cfrc_ext.ravel())
            numbers = [reward, done, info.get("success", 0.0), data.ncon]
            seen.append(np.concatenate([obs, *state, numbers]))
    return seen


def differing(one, other):
    """Names of the arrays in which two models differ, those of meshes and textures left out."""
    names = [n for n in dir(one) if isinstance(getattr(one, n, None), np.ndarray)]
    names = [n for n in names if not n.startswith((*PARTS, "_"))]
    return {n for n in names if not np.array_equal(getattr(one, n), getattr(other, n))}


def colliders(model):
    """By name, all that the simulator reads of each mesh that can touch something."""
    solid = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    found = {}
    for i in set(model.geom_dataid[solid & (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)]):
        slices = {
            "mesh_vert": (model.mesh_vertadr[i], model.mesh_vertnum[i]),
            "mesh_face": (model.mesh_faceadr[i], model.mesh_facenum[i]),
            "mesh_graph": (model.mesh_graphadr[i], 2),  # of the hull, begins with how many
            "bvh_aabb": (model.mesh_bvhadr[i], model.mesh_bvhnum[i]),
            "mesh_pos": (i, 1),
            "mesh_quat": (i, 1),
        }
        if hasattr(model, "mesh_polyadr"):  # not of the oldest that is supported
            slices["mesh_polynormal"] = (model.mesh_polyadr[i], model.mesh_polynum[i])
        vertices, faces = model.mesh_graph[slices["mesh_graph"][0] :][:2]
        slices["mesh_graph"] = (model.mesh_graphadr[i], 2 + 3 * vertices + 6 * faces)
        found[model.mesh(i).name] = [
            getattr(model, name)[start : start + count] for name, (start, count) in slices.items()
        ]
    return found


@pytest.mark.whole(but_every=2)
@pytest.mark.parametrize("name", NAMES + MORE if LONG else NAMES)
def test_an_environment_moves_the_same_to_the_last_bit(name):
    whole, smaller = world(name, False), world(name, True)
    for one, other in zip(played(whole), played(smaller), strict=True):
        np.testing.assert_array_equal(one, other)
    one, other = whole.env.unwrapped.model, smaller.env.unwrapped.model
    if "maze" in name or "soccer" in name:
        assert one.nbuffer == other.nbuffer < 4 * MEGABYTE
        return
    assert one.nbuffer > 50 * MEGABYTE > 12 * MEGABYTE > other.nbuffer
    assert other.ntexdata == 0
    pictures = {"geom_type", "geom_dataid", "mat_texid"}
    assert differing(one, other) <= pictures
    expected, found = colliders(one), colliders(other)
    assert expected.keys() == found.keys() and expected
    for mesh, parts in expected.items():
        for theirs, ours in zip(parts, found[mesh], strict=True):
            np.testing.assert_array_equal(theirs, ours)
    for part in ("center", "extent", "meaninertia", "meanmass", "meansize"):
        assert np.array_equal(getattr(one.stat, part), getattr(other.stat, part))


BOX = '<geom name="box" type="box" size="1 1 1"/>'
PICTURE = '<geom name="picture" type="mesh" mesh="m" contype="0" conaffinity="0"/>'
SOLID = '<geom name="solid" type="mesh" mesh="m"/>'
CORNERS = "0 0 0 1 0 0 0 1 0 0 0 1"


def xml(geoms, more=""):
    return (
        f'<mujoco><asset><mesh name="m" vertex="{CORNERS}"/></asset><worldbody><body><joint/>'
        f"{geoms}</body></worldbody>{more}</mujoco>"
    )


@pytest.mark.parametrize(
    ("description", "meshes"),
    [
        (xml(BOX + PICTURE), 0),
        (xml(BOX + PICTURE + SOLID), 1),
        (xml(BOX + PICTURE.replace('name="picture"', "")), 1),  # which of them it is, is not known
        (xml(BOX + PICTURE, '<contact><pair geom1="box" geom2="picture"/></contact>'), 1),
        (xml(BOX + PICTURE, '<sensor><distance geom1="box" geom2="picture"/></sensor>'), 1),
        ("<mujoco/>", 0),
    ],
)
def test_what_is_more_than_a_picture_stays(description, meshes):
    whole = mujoco.MjModel.from_xml_string
    full = whole(description)
    with unrendered.models():
        found = mujoco.MjModel.from_xml_string(description)
    assert mujoco.MjModel.from_xml_string(description).nmesh == full.nmesh
    assert found.nmesh == meshes
    np.testing.assert_array_equal(found.body_inertia, full.body_inertia)
    np.testing.assert_array_equal(found.body_ipos, full.body_ipos)


def test_each_asks_for_a_model_of_its_own():
    with unrendered.models():
        one, other = (mujoco.MjModel.from_xml_string(xml(BOX)) for _ in range(2))
    one.geom_rgba[0] = 0.25
    assert other.geom_rgba[0, 0] == 0.5


def test_a_model_that_differs_elsewhere_is_taken_whole(monkeypatch):
    """As if a later MuJoCo counted something new, or no longer took what is left."""
    monkeypatch.setattr(unrendered, "_SIZES", tuple(set(unrendered._SIZES) - {"nmesh"}))
    with unrendered.models():
        assert mujoco.MjModel.from_xml_string(xml(BOX + PICTURE)).nmesh == 1

    def no_spheres(text, assets=None):
        if "sphere" in text:
            raise ValueError("Error: no spheres")
        return whole(text, assets)

    whole = mujoco.MjModel.from_xml_string
    assert unrendered._lean(xml(BOX + PICTURE), {}, no_spheres).nmesh == 1
