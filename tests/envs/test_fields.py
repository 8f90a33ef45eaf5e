"""Every field of MuJoCo's model is reached by a parameter, or knowingly not: MuJoCo grows fields, and none goes unnoticed."""

from __future__ import annotations

from fnmatch import fnmatchcase

import mujoco
import numpy as np
import pytest

import envs
from envs.held import FOLLOWING

LEFT_ALONE: dict[str, str] = {
    "bvh_* cam_* light_* mat_* mesh_* oct_* skin_* *_rgba stat.center stat.extent stat.meanmass stat.meansize": (
        "what is seen, and how it is looked for"
    ),
    "*_user numeric_* tuple_* key_*": "what the model's author notes down",
    "geom_size geom_aabb geom_rbound geom_pos geom_quat site_* hfield_* wrap_prm tendon_width flex_radius flex_size": (
        "shapes: contacts, masses and drawings follow from them when the model is compiled"
    ),
    "flex_vert* flex_node* flex_texcoord flexedge_length0 flex_vertmetric": "shapes of flexes",
    "body_pos body_quat jnt_pos jnt_axis body_iquat qpos0 qpos_spring tendon_lengthspring actuator_cranklength": (
        "how the machine is put together"
    ),
    "actuator_length0 actuator_lengthrange tendon_length0 dof_length": "lengths that follow from how it is put together",
    "eq_*": "constraints between bodies: environments write them at run time, for grasping and for mocap",
    "flex_stiffness flex_bending flex_damping flex_edgestiffness flex_edgedamping": (
        "elasticity of flexes: stored as what the compiler makes of a modulus"
    ),
    "body_gravcomp": "compensation of gravity: a property of a controller",
    "geom_fluid": "coefficients of drag of each shape: density and viscosity scale what they bring",
    "geom_surfacevel geom_adhesion pair_adhesion": "conveyor belts and adhesion",
    "*_margin *_gap opt.o_margin": "the distance from which on a constraint acts",
    "*_solref_* *_solimp_* dof_sol* jnt_sol* tendon_sol* eq_sol* pair_solreffriction": "softness of constraints but contacts",
    "*_solmix": "whose softness counts more",
    "tendon_range actuator_ctrlrange actuator_actrange": "limits of tendons, controls and activations",
    "actuator_gear actuator_dynprm": "how controls become forces over time: strength scales the force",
    "actuator_delay sensor_*": "delays inside the simulation, and sensors",
    "opt.magnetic": "magnetic flux: only sensors read it",
    "opt.impratio opt.tolerance opt.*_tolerance opt.iterations opt.*iterations opt.sdf_initpoints": "how exactly is computed",
    "opt.cone opt.integrator opt.jacobian opt.solver opt.*flags opt.disableactuator": "how is computed",
}
"""Patterns of the names of fields that no parameter reaches, with the reason."""

OLDER = {"opt.apirate"}
"""Options that MuJoCo had once, and that were no physics."""

COMPLETE = tuple(map(int, mujoco.__version__.split(".")[:2])) >= (3, 17)

PATTERNS = [pattern for patterns in LEFT_ALONE for pattern in patterns.split()]
WRITTEN = {field.name for parameter in envs.PARAMETERS.values() for field in getattr(parameter, "fields", ())}


def is_real(value):
    return isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")


def fields_of_the_model():
    """The fields of the installed MuJoCo's model that are real numbers, and all of its options."""
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    found = [name for name in dir(model) if is_real(getattr(model, name))]
    found += [f"opt.{name}" for name in dir(model.opt) if not name.startswith("_")]
    found += [f"stat.{name}" for name in dir(model.stat) if is_real(getattr(model.stat, name))]
    return [name for name in found if not name.startswith("_")]


@pytest.mark.parametrize("name", fields_of_the_model())
def test_a_field_is_reached_by_a_parameter_or_knowingly_not(name):
    reached = name in WRITTEN or name in FOLLOWING
    left_alone = name in OLDER or any(fnmatchcase(name, pattern) for pattern in PATTERNS)
    assert reached != left_alone, f"{name}: a parameter should write it, or LEFT_ALONE say why none does"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_left_alone_is_there(pattern):
    if not COMPLETE:
        pytest.skip("an older MuJoCo does not have all of them")
    assert any(fnmatchcase(name, pattern) for name in fields_of_the_model())


def test_the_fields_of_parameters_are_mujocos():
    if not COMPLETE:
        pytest.skip("an older MuJoCo does not have all of them")
    assert set(fields_of_the_model()) >= WRITTEN | set(FOLLOWING)
