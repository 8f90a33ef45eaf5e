from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def contact_frictions():
    """Measures an environment's contacts as MuJoCo made them: (contacts, 2), the sliding friction in both tangents."""

    def measure(env):
        data = env.unwrapped.data
        return np.array([data.contact[i].friction[:2] for i in range(data.ncon)]).reshape(-1, 2)

    return measure
