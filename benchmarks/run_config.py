"""Interim: the cli is not here yet."""

import sys
from omegaconf import OmegaConf
from pathlib import Path
import os

if sys.argv[1] == "model=mnist_meta":
    conf = Path(os.environ["PYTHONPATH"]) / "conf"
    c = OmegaConf.merge(
        {"source": {"kind": "meta_graph"}},
        *(OmegaConf.load(conf / f) for f in ("signature/digits.yaml", "model/mnist_meta.yaml")),
    )
else:
    c = OmegaConf.merge({"source": {"kind": "meta_graph"}}, OmegaConf.load("conf/model/dense.yaml"))
c.pop("defaults")
c = OmegaConf.merge(c, OmegaConf.from_dotlist([a for a in sys.argv[2:] if not a.startswith("post")]))
c["report"] = {"path": c.report.path}
import exportkit

exportkit.run(exportkit.plan(c))
