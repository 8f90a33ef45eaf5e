"""Small MuJoCo environments of the tests' own, each with what Gymnasium's do not have."""

from __future__ import annotations

import gymnasium
import mujoco
import numpy as np

ARM = """<mujoco>
  <option gravity="0 0 0" integrator="Euler"/>
  {option}
  <worldbody>
    <site name="anchor" pos="0.3 0 0.4"/>
    <body name="arm">
      <joint name="elbow" type="hinge" axis="0 1 0" {joint}/>
      <geom name="bone" type="capsule" fromto="0 0 0 0 0 0.5" size="0.02"/>
      <site name="tip" pos="0.05 0 0.4"/>
    </body>
    <body name="door" pos="1 0 0">
      <joint name="door_hinge" type="hinge" axis="0 0 1" damping="1"/>
      <geom name="panel" type="box" pos="0.2 0 0" size="0.2 0.01 0.3"/>
    </body>
  </worldbody>
  {more}
</mujoco>"""
"""An arm with one joint, and a door that nothing drives."""

CORD = '<tendon><spatial name="cord"><site site="anchor"/><site site="tip"/></spatial></tendon>'


def arm(more="", joint="", option=""):
    return ARM.format(more=more, joint=joint, option=option)


class World(gymnasium.Env):
    """An environment around a model of one's own."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, xml):
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if action is not None:
            self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data)
        return np.zeros(1, np.float32), 0.0, False, False, {}


BOX = """<mujoco>
  <option>{flag}</option>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1"/>
    <body name="box" pos="0 0 0.1"><freejoint/><geom name="box" type="box" size="0.1 0.1 0.1" {geom}/></body>
    {more}
  </worldbody>
  {outside}
</mujoco>"""


def box(geom="", more="", outside="", flag=""):
    """A box that lies on the floor."""
    return BOX.format(geom=geom, more=more, outside=outside, flag=flag)
