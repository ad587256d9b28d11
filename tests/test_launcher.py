"""The launcher: Hydra's own conformance suite, and sweeps whose jobs die."""

import os
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra_plugins.exportkit import ProcessLauncher

import exportkit


@pytest.fixture(autouse=True)
def registered(tmp_path, monkeypatch):
    """Here, and in the applications that the suite starts, the launcher is as an installed wheel has it."""
    Plugins.instance().register(ProcessLauncher)
    (tmp_path / "site/hydra_plugins").mkdir(parents=True)
    (tmp_path / "site/hydra_plugins/exportkit").symlink_to(Path(exportkit.__file__).parent / "launcher")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


@pytest.mark.parametrize("launcher_name, overrides", [("exportkit", [])])
class TestConformance(LauncherTestSuite):
    pass


@pytest.mark.parametrize("launcher_name, overrides", [("exportkit", ["hydra.sweeper.max_batch_size=2"])])
class TestBatches(BatchedSweeperTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("task_launcher_cfg, extra_flags", [({}, ["-m", "hydra/launcher=exportkit"])])
class TestIntegration(IntegrationTestSuite):
    pass
