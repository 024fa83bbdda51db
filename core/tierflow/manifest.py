"""The InferencePipeline manifest as a typed, frozen value, the same for `kubectl apply` and `tierflow run`.

Types and defaults only. `tierflow.manifest_reading` reads one and says what is wrong with it, by the rules of
`tierflow.manifest_checks`; what it means to the planner is in `tierflow.manifest_values`. Fields, defaults and bounds
are those of the API server's schema, `crds/tierflow.dev_inferencepipelines.yaml`.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec

from tierflow.partition.problem import Algorithm
from tierflow.tiers import Tier

API_VERSION: Final = "tierflow.dev/v1alpha1"
KIND: Final = "InferencePipeline"
TIER_LABEL: Final = "tierflow.dev/tier"
"""The node label that says to which tier a node belongs, unless a pipeline selects otherwise."""
NETWORK_ANNOTATION: Final = "tierflow.dev/network"
"""The user's own: the links to assume until they have been measured, and those that local mode emulates."""
SPEEDS_ANNOTATION: Final = "tierflow.dev/speeds"
"""The user's own: the tiers' speeds to assume until they have been measured, and those that local mode emulates."""
EDGE_WORKERS_ANNOTATION: Final = "tierflow.dev/edge-workers"
"""The user's own: how many workers to assume at the edge until its nodes have been seen, and how many local mode has.

They share tiles as far as the edge's `tiling` allows it."""

Quantity = int | Annotated[str, msgspec.Meta(max_length=32)]
"""A Kubernetes quantity; of bytes: a whole number, or one with k, M, G, T, Ki, Mi, Gi or Ti."""
Amounts = Annotated[dict[str, Quantity], msgspec.Meta(max_length=16)]
"""Quantities by resource."""
LabelValue = Annotated[str, msgspec.Meta(max_length=63)]
PinName = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
InputName = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Uri = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
LayerName = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
LayerNameOrEmpty = Annotated[str, msgspec.Meta(max_length=1024)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]
UpToAnHour = Annotated[int, msgspec.Meta(ge=0, le=3_600)]
"""Seconds."""
UpToADay = Annotated[int, msgspec.Meta(ge=0, le=86_400)]
"""Seconds."""
SomeOfADay = Annotated[int, msgspec.Meta(ge=1, le=86_400)]
"""Seconds, at least one."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of what users write: camelCase, and an unknown field is an error."""


class TilingMode(StrEnum):
    """Whether runs of the edge's layers are cut into tiles."""

    AUTO = "Auto"
    OFF = "Off"


class PlanningMode(StrEnum):
    """Who decides: the planner, the manifest's `manual`, or nobody for now."""

    AUTO = "Auto"
    MANUAL = "Manual"
    PAUSED = "Paused"


class Objective(StrEnum):
    """What a plan minimises."""

    LATENCY = "Latency"


class OnUnavailable(StrEnum):
    """What happens where measurements are missing or stale."""

    HOLD_PLAN = "HoldPlan"
    USE_DEFAULTS = "UseDefaults"


class ModelInput(_Strict, frozen=True, kw_only=True):
    """Fixes the free dimensions of one input."""

    name: InputName
    shape: Annotated[tuple[Positive, ...], msgspec.Meta(max_length=16)]


class ModelSpec(_Strict, frozen=True, kw_only=True):
    """Where the model is; `sha256` is checked wherever it is read, "" checks nothing."""

    uri: Uri
    sha256: Annotated[str, msgspec.Meta(max_length=64)] = ""
    inputs: Annotated[tuple[ModelInput, ...], msgspec.Meta(max_length=32)] = ()


class Toleration(_Strict, frozen=True, kw_only=True):
    """A toleration, as a pod has it."""

    key: Annotated[str, msgspec.Meta(max_length=317)] = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int | None = None


class Resources(_Strict, frozen=True, kw_only=True):
    """A container's resources, as a pod has them."""

    requests: Amounts = {}
    limits: Amounts = {}


class Tiling(_Strict, frozen=True, kw_only=True):
    """How runs of the edge's layers are cut into tiles."""

    mode: TilingMode = TilingMode.AUTO
    max_workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4


class TierSpec(_Strict, frozen=True, kw_only=True):
    """One tier: the nodes that it has and what its worker gets.

    Without `replicas` there is one worker at first, and whoever scales the tier's Deployment may change that.
    """

    name: Tier
    node_selector: Annotated[dict[str, LabelValue], msgspec.Meta(max_length=16)] = {}
    tolerations: Annotated[tuple[Toleration, ...], msgspec.Meta(max_length=16)] = ()
    replicas: Annotated[int, msgspec.Meta(ge=1, le=1_000)] | None = None
    resources: Resources = Resources()
    memory_budget: Quantity | None = None
    tiling: Tiling | None = None

    @property
    def selector(self) -> dict[str, str]:
        """The labels of the tier's nodes."""
        return self.node_selector or {TIER_LABEL: self.name.value}


class PinSpec(_Strict, frozen=True, kw_only=True):
    """The layer `layers_up_to` and all that it depends on stay on `tier`."""

    name: PinName
    layers_up_to: LayerName
    tier: Tier


class ManualPlan(_Strict, frozen=True, kw_only=True):
    """A cut by hand: the last layer of the device and of the edge, in the model's order; "" for a tier with none."""

    device_last_layer: LayerNameOrEmpty | None = None
    edge_last_layer: LayerNameOrEmpty | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything is said at all; `manual: {}` says nothing."""
        return self.device_last_layer is not None or self.edge_last_layer is not None


class Planning(_Strict, frozen=True, kw_only=True):
    """How plans are made, and when one replaces another."""

    mode: PlanningMode = PlanningMode.AUTO
    algorithm: Algorithm = Algorithm.EXACT
    objective: Objective = Objective.LATENCY
    min_improvement_percent: Percent = 10
    min_interval_seconds: UpToADay = 30
    stabilization_seconds: UpToADay = 30
    pins: Annotated[tuple[PinSpec, ...], msgspec.Meta(max_length=32)] = ()
    backbone_bytes_per_request: Quantity | None = None
    manual: ManualPlan = ManualPlan()


class Prometheus(_Strict, frozen=True, kw_only=True):
    """Where measurements are read from; "" means the operator's own setting."""

    url: Annotated[str, msgspec.Meta(max_length=2048)] = ""


class Metrics(_Strict, frozen=True, kw_only=True):
    """Measurements and what happens without them."""

    prometheus: Prometheus = Prometheus()
    max_staleness_seconds: SomeOfADay = 60
    on_unavailable: OnUnavailable = OnUnavailable.HOLD_PLAN


class Rollout(_Strict, frozen=True, kw_only=True):
    """How long a change may take, and how long a worker that leaves finishes its requests."""

    progress_deadline_seconds: SomeOfADay = 120
    drain_seconds: UpToAnHour = 30


class WorkerSpec(_Strict, frozen=True, kw_only=True):
    """The workers' image; "" means the one of the operator's release."""

    image: Annotated[str, msgspec.Meta(max_length=512)] = ""


class PipelineSpec(_Strict, frozen=True, kw_only=True):
    """What the user wants."""

    model: ModelSpec
    tiers: tuple[TierSpec, ...]
    planning: Planning = Planning()
    metrics: Metrics = Metrics()
    rollout: Rollout = Rollout()
    worker: WorkerSpec = WorkerSpec()

    def tier(self, tier: Tier) -> TierSpec:
        """The spec of `tier`; every read manifest has each tier exactly once."""
        return next(spec for spec in self.tiers if spec.name is tier)


class ObjectMeta(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Kubernetes' object metadata; what only the API server writes is accepted and mostly left alone."""

    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    generate_name: str = ""
    self_link: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[dict[str, Any], ...] = ()
    managed_fields: tuple[dict[str, Any], ...] = ()


class InferencePipeline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A DNN to be served over three tiers. `status` is the control plane's and not looked into here."""

    metadata: ObjectMeta
    spec: PipelineSpec
    api_version: str = API_VERSION
    kind: str = KIND
    status: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """Its name; the model name that clients use."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.metadata.namespace
