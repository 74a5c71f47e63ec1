"""Models without what only a camera sees: textures, and meshes that touch nothing. No JAX.

An environment of the benchmark's manipulation holds two models, of 61 and 30 MB, and the 33 MB of files
they were made from; the simulator reads 11 MB of that. What is never rendered is made within
`models`. Mazes have no such meshes and stay as they are, at 2 MB each.
"""

import contextlib
import copy
import ctypes
import gc
import importlib
from collections.abc import Callable, Generator, Mapping
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import numpy as np

_PICTURES = ("geom_type", "geom_dataid", "mat_texid")
"""Arrays of a model that say which mesh and texture to draw."""
_PARTS = ("mesh_", "tex_", "bvh_", "name", "path")
"""Arrays of meshes, of textures, of the boxes around a mesh's faces, and of the names of all that."""
_SIZES = ("nmesh", "ntex", "nbvh", "nname", "npath", "npolygonmax", "nbuffer", "signature")
"""Numbers of a model that follow from how much there is of `_PARTS`."""


@contextlib.contextmanager
def models() -> Generator[Callable[[Any], None]]:
    """Models that MuJoCo compiles from a string meanwhile are leaner, each compiled once.

    Whoever asks for the same again gets a copy. At the end all memory that compiling took is given
    back. Gives a function that takes an environment whose model is compiled, and empties the files of
    its description.
    """
    mujoco = _mujoco()
    compiled: dict[str, Any] = {}
    whole = mujoco.MjModel.from_xml_string

    def from_xml_string(xml: str, assets: Mapping[str, bytes] | None = None) -> Any:
        if xml not in compiled:
            compiled[xml] = _lean(xml, assets or {}, whole)
        return copy.copy(compiled[xml])

    _return_large_blocks()
    with mock.patch.object(mujoco.MjModel, "from_xml_string", from_xml_string):
        try:
            yield _forget_files
        finally:
            compiled.clear()
            gc.unfreeze()
            _give_back(whole)


def _lean(
    xml: str, assets: Mapping[str, bytes], whole: Callable[[str, Mapping[str, bytes]], Any]
) -> Any:
    """The `MjModel` of `xml`, which moves as `whole(xml, assets)` does, to the last bit.

    Geoms that collide with nothing are balls in place of meshes. What a mesh contributes beside its
    picture (masses, inertias, extents) is copied from the whole model. The whole model is what comes
    back if something other than a camera may ask for such a geom, or if the two differ in anything
    else, as those of a later MuJoCo might.
    """
    full = whole(xml, assets)
    root = ElementTree.fromstring(xml)  # noqa: S314 - made by dm_control in this process
    if full.npair or full.nsensor or not _take_pictures_out(root, full):
        return full
    try:
        lean = whole(ElementTree.tostring(root, encoding="unicode"), assets)
    except ValueError:  # MuJoCo's word for a model that it does not understand
        return full
    return lean if _complete(lean, full) else full


def _take_pictures_out(root: ElementTree.Element, full: Any) -> bool:
    """Takes textures, and meshes of geoms that collide with nothing, out; false if there are none."""
    world, asset = root.find("worldbody"), root.find("asset")
    if world is None or asset is None:
        return False
    meshes = {geom: geom.get("mesh") for geom in world.iter("geom") if geom.get("mesh") is not None}
    pictures = [geom for geom in meshes if _is_picture(geom, full)]
    for geom in pictures:
        del geom.attrib["mesh"]
        geom.set("type", "sphere")
        geom.set("size", "1")
    kept = {mesh for geom, mesh in meshes.items() if geom not in pictures}
    return _remove_assets(asset, kept)


def _is_picture(geom: ElementTree.Element, full: Any) -> bool:
    """Whether it is known of a geom with a mesh that it collides with nothing."""
    if not geom.get("name"):
        return False
    try:
        compiled = full.geom(geom.get("name"))
    except KeyError:  # compiled under another name, as what is replicated
        return False
    collides = compiled.contype[0] or compiled.conaffinity[0]
    return compiled.type[0] == int(_mujoco().mjtGeom.mjGEOM_MESH) and not collides


def _remove_assets(asset: ElementTree.Element, kept: set[str | None]) -> bool:
    """Removes textures, and meshes that are not in `kept`; false if there are none."""
    textures = asset.findall("texture")
    meshes = [mesh for mesh in asset.findall("mesh") if mesh.get("name") not in kept]
    for part in (*textures, *meshes):
        asset.remove(part)
    for material in asset.iter("material"):
        material.attrib.pop("texture", None)
    return bool(textures or meshes)


def _complete(lean: Any, full: Any) -> bool:
    """Gives `lean` all numbers of `full` but those of pictures; false if they do not fit."""
    if not all(_copy(name, lean, full) for name in _numbers(full)):
        return False
    for name in _numbers(full.stat):
        setattr(lean.stat, name, getattr(full.stat, name))
    return True


def _copy(name: str, lean: Any, full: Any) -> bool:
    """Gives `lean` the number or array `name` of `full`; false if it does not fit."""
    theirs, ours = getattr(full, name), getattr(lean, name)
    if not isinstance(theirs, np.ndarray):
        return theirs == ours or name.startswith(_SIZES)
    if name.startswith("bvh_"):  # boxes around the geoms of bodies come first
        boxes = int(full.body_bvhnum.sum())
        if len(ours) < boxes:
            return False
        ours[:boxes] = theirs[:boxes]
    elif name not in _PICTURES and not name.startswith(_PARTS):
        if ours.shape != theirs.shape:
            return False
        ours[...] = theirs
    return True


def _numbers(struct: Any) -> list[str]:
    """Names of the numbers and arrays in one of MuJoCo's structs."""
    names = [name for name in dir(struct) if not name.startswith("_")]
    return [n for n in names if isinstance(getattr(struct, n), int | float | np.ndarray)]


def _forget_files(env: Any) -> None:
    description: Any = getattr(env.unwrapped, "mjcf_model", None)
    for tag in ("mesh", "texture") if description is not None else ():
        for part in description.find_all(tag):
            if part.file is not None:
                part.file.contents = b""
    gc.collect()  # descriptions are circular, and one that is no longer used holds files too
    gc.freeze()  # the next collection need not go through this environment again


def _return_large_blocks() -> None:
    """Blocks above 128 kB go back to the system when they are freed, of which glibc alone must be told.

    It raises the limit to 32 MB as it meets larger ones, and what compiling leaves is full of holes.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-3, 128 * 1024)


def _give_back(whole: Callable[[str], Any]) -> None:
    """Returns to the system what MuJoCo keeps of compiling, up to 110 MB, and holes of the heap."""
    mujoco = _mujoco()
    whole("<mujoco/>")  # in place of the last description, which it keeps for who might save it
    if hasattr(mujoco, "mj_clearCache"):  # older ones have no cache, or none that can be reached
        mujoco.mj_clearCache(mujoco.mj_getCache())
    with contextlib.suppress(OSError, AttributeError):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)


def _mujoco() -> Any:
    """The module, imported on first use; its stubs know too little for a type checker."""
    return importlib.import_module("mujoco")
