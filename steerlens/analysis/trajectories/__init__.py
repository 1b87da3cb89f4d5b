"""Where a model's states go while it writes: their ways, whether tasks lie apart, and how they
step."""

from steerlens.analysis.trajectories.clusters import cluster_report as cluster_report
from steerlens.analysis.trajectories.projection import Projection as Projection
from steerlens.analysis.trajectories.projection import project as project
from steerlens.analysis.trajectories.states import Trajectories as Trajectories
from steerlens.analysis.trajectories.states import trajectories as trajectories
from steerlens.analysis.trajectories.states import write as write
from steerlens.analysis.trajectories.steps import step_statistics as step_statistics
