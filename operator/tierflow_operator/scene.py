"""What a move's steps are decided from: what is wanted, what is there, and how far that has come."""

from dataclasses import dataclass

from tierflow.manifest import InferencePipeline
from tierflow.tiers import TIERS, Tier
from tierflow_operator.checks import approval
from tierflow_operator.descriptors import TILES
from tierflow_operator.pods import Manifest, Release
from tierflow_operator.record import Record
from tierflow_operator.render import config_map_of
from tierflow_operator.rollout import deployments_of, is_complete, is_ready, pods_of, serve_alone


@dataclass(frozen=True, slots=True)
class Scene:
    """What the steps are decided from.

    Attributes:
        pipeline: What the user wants.
        release: The workers' image.
        wanted: What `render` made of the target plan and the descriptors in force.
        live: All objects of the pipeline, its pods included.
        record: What is remembered; written before anything that follows from it.
        unavailable: Tiers that can compute nothing now: nothing is waited for there.
        cut_off: Tiers that don't answer everybody who asks.
        now: Seconds of the Unix epoch.
    """

    pipeline: InferencePipeline
    release: Release
    wanted: tuple[Manifest, ...]
    live: tuple[Manifest, ...]
    record: Record
    unavailable: frozenset[Tier]
    cut_off: frozenset[Tier]
    now: float

    @property
    def config_maps(self) -> dict[str, str]:
        """By component, the ConfigMap with the wanted descriptor."""
        return {component: config_map_of(entry) for component, entry in deployments_of(self.wanted).items()}

    @property
    def parts(self) -> tuple[Tier, ...]:
        """The tiers that take part in the target plan, device first."""
        return tuple(tier for tier in TIERS if self.record.target.plan.segment(tier).segment.takes_part)

    @property
    def approvals(self) -> tuple[Manifest, ...]:
        """Those that there should be: of all wanted descriptors that are in force."""
        return tuple(
            approval(self.pipeline, component, name)
            for component, name in self.config_maps.items()
            if component != TILES and self.record.in_force.get(component) == name
        )

    def has_arrived(self, component: str) -> bool:
        """Whether a component's workers all serve what is wanted; never waited for where nothing can run."""
        if component in self.unavailable or (component == TILES and Tier.EDGE in self.unavailable):
            return True
        deployment = self._wanted_deployment(component)
        return deployment is not None and is_complete(deployment)

    def has_taken_over(self, component: str) -> bool:
        """Whether requests meet only workers that serve what is wanted.

        The pods say so a moment before their Deployment's status does.
        """
        if self.has_arrived(component):
            return True
        deployment = self._wanted_deployment(component)
        return deployment is not None and serve_alone(
            self.live, component, self.config_maps[component], deployment["spec"].get("replicas", 1)
        )

    def has_enough(self, component: str) -> bool:
        """Whether so many of a component's workers as are wanted serve what is wanted, whoever else is left."""
        if self.has_arrived(component):
            return True
        deployment = self._wanted_deployment(component)
        if deployment is None:
            return False
        ready = [pod for pod in pods_of(self.live, component, self.config_maps[component]) if is_ready(pod)]
        return len(ready) >= int(deployment["spec"].get("replicas", 1))

    def _wanted_deployment(self, component: str) -> Manifest | None:
        """A component's live Deployment, where its pods are to serve what is wanted."""
        deployment = deployments_of(self.live).get(component)
        if deployment is None or config_map_of(deployment) != self.config_maps[component]:
            return None
        return deployment
