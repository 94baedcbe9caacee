"""Active checks, one a file, in reading order."""

from __future__ import annotations

from probes.checks.accumulation import Accumulation
from probes.checks.alike import Alike
from probes.checks.backwards import BackwardTargets
from probes.checks.bare_step import BareStep
from probes.checks.batch_dependence import BatchDependence
from probes.checks.batch_focal import BatchFocal
from probes.checks.broadcast import Broadcast
from probes.checks.carried_graph import CarriedGraph
from probes.checks.cleared_beside import ClearedBeside
from probes.checks.clipped_scaled import ClippedScaled
from probes.checks.contradicting import Contradicting
from probes.checks.copied_input import CopiedInput
from probes.checks.crossing import Crossing
from probes.checks.crowded_row import CrowdedRow
from probes.checks.ctc_targets import CtcTargets
from probes.checks.cut_across import TextCutAcross
from probes.checks.cut_state import CutState
from probes.checks.decoding_parity import DecodingParity
from probes.checks.defeated_mask import DefeatedMask
from probes.checks.doubled import DoubledTensor
from probes.checks.drawn_again import DrawnTwice
from probes.checks.drawn_once import DrawnOnce
from probes.checks.drawn_start import DrawnStartState
from probes.checks.drawn_target import TargetDrawnApart
from probes.checks.drowned_part import DrownedPart
from probes.checks.empty_row import EmptyRow
from probes.checks.everyones_columns import EveryonesColumns
from probes.checks.exchanged_weights import ExchangedWeights
from probes.checks.flat import Flat
from probes.checks.full_lengths import FullLengths
from probes.checks.future import Future
from probes.checks.gradient import Gradient
from probes.checks.half_cleared import HalfCleared
from probes.checks.heads_for_places import HeadsForPlaces
from probes.checks.heavy_dropout import HeavyDropout
from probes.checks.held import Held
from probes.checks.hidden_rows import HiddenRows
from probes.checks.hides_nothing import HidesNothing
from probes.checks.idle_mask import IdleMask
from probes.checks.idle_rate import IdleRate
from probes.checks.idle_table import IdleTable
from probes.checks.ignored_class import IgnoredClass
from probes.checks.ignored_start import IgnoredStart
from probes.checks.index_alignment import IndexAlignment
from probes.checks.input_scale import InputScale
from probes.checks.joined_backwards import JoinedBackwards
from probes.checks.joined_graphs import JoinedGraphs
from probes.checks.label_among_inputs import LabelAmongInputs
from probes.checks.label_offset import LabelOffset
from probes.checks.label_order import LabelOrder
from probes.checks.label_place import LabelPlace
from probes.checks.label_shift import LabelShift
from probes.checks.late_covariate import LateCovariate
from probes.checks.left_behind import StatisticsLeftBehind
from probes.checks.left_in_evaluation import LeftInEvaluation
from probes.checks.left_over import LeftOver
from probes.checks.log_of_softmax import LogOfSoftmax
from probes.checks.loss_formula import LossFormula
from probes.checks.loss_input import LossInput
from probes.checks.mask_as_target import MaskAsTarget
from probes.checks.mask_disagreement import MaskDisagreement
from probes.checks.misapplied_mask import MisappliedMask
from probes.checks.misasked_table import MisaskedTable
from probes.checks.misplaced_windows import MisplacedWindows
from probes.checks.mixed_states import MixedStates
from probes.checks.modes import Modes
from probes.checks.more_padding import MorePadding
from probes.checks.not_put_back import NotPutBack
from probes.checks.one_class import OneClass
from probes.checks.one_row import OneRow
from probes.checks.one_way import OneWay
from probes.checks.other_clock import OtherClock
from probes.checks.out_of_reach import OutOfReach
from probes.checks.outside_partition import OutsidePartition
from probes.checks.over_samples import OverSamples
from probes.checks.overlapping_fields import OverlappingFields
from probes.checks.own_backward import OwnBackward
from probes.checks.own_label import OwnLabel
from probes.checks.pad_leak import PadLeak
from probes.checks.padding_pick import PaddingPick
from probes.checks.padding_row import PaddingRow
from probes.checks.pairing import Pairing
from probes.checks.parted_in_training import PartedInTraining
from probes.checks.past_the_end import BootstrapsPastTheEnd
from probes.checks.places_of_padding import PlacesOfPadding
from probes.checks.pulled_back import PulledBack
from probes.checks.real_padding import RealPadding
from probes.checks.regrouped_rows import RegroupedRows
from probes.checks.repeats import Repeats
from probes.checks.scattered_back import ScatteredBack
from probes.checks.scored_padding import ScoredPadding
from probes.checks.shared import Shared
from probes.checks.shared_class import SharedClass
from probes.checks.shift_not_undone import ShiftNotUndone
from probes.checks.short_sum import ShortSum
from probes.checks.softmax_axis import SoftmaxAxis
from probes.checks.stale_cache import StaleCache
from probes.checks.step_parity import StepParity
from probes.checks.still_state import StillState
from probes.checks.swapped_coordinates import SwappedCoordinates
from probes.checks.target_domain import TargetDomain
from probes.checks.taught_by_policy import TaughtByPolicy
from probes.checks.thawed import Thawed
from probes.checks.thrown_away import ThrownAway
from probes.checks.tiled_groups import TiledGroups
from probes.checks.transposed_targets import TransposedTargets
from probes.checks.unasked_mask import UnaskedMask
from probes.checks.uncleared import Uncleared
from probes.checks.uncounted_heads import UncountedHeads
from probes.checks.uncounted_start import UncountedStart
from probes.checks.unit_axis import UnitAxis
from probes.checks.unlearned_end import UnlearnedEnd
from probes.checks.unmoved import Unmoved
from probes.checks.unpicked_state import StateNotPicked
from probes.checks.unreachable_label import UnreachableLabel
from probes.checks.unread_columns import UnreadColumns
from probes.checks.unread_end import UnreadEnd
from probes.checks.unread_state import UnreadState
from probes.checks.unregistered import Unregistered
from probes.checks.unshifted_mask import UnshiftedMask
from probes.checks.unused_input import UnusedInput
from probes.checks.view_for_transpose import ViewForTranspose
from probes.checks.written_batch import WrittenBatch
from probes.experiment import Experiment
from probes.finding import Check

RULES: tuple[Check[Experiment], ...] = (
    Repeats(),
    WrittenBatch(),
    BareStep(),
    Unmoved(),
    Flat(),
    Alike(),
    Held(),
    Unregistered(),
    Shared(),
    Uncleared(),
    Accumulation(),
    NotPutBack(),
    ThrownAway(),
    ClippedScaled(),
    PulledBack(),
    OneWay(),
    Thawed(),
    Modes(),
    HeavyDropout(),
    UnusedInput(),
    UnaskedMask(),
    MisaskedTable(),
    UnreadColumns(),
    UnreadEnd(),
    IdleTable(),
    OneRow(),
    InputScale(),
    IdleRate(),
    OtherClock(),
    LeftInEvaluation(),
    StatisticsLeftBehind(),
    Broadcast(),
    EveryonesColumns(),
    LossInput(),
    TargetDomain(),
    LossFormula(),
    BatchFocal(),
    OutsidePartition(),
    LogOfSoftmax(),
    SoftmaxAxis(),
    UnitAxis(),
    DoubledTensor(),
    DrownedPart(),
    TaughtByPolicy(),
    OwnBackward(),
    Gradient(),
    PadLeak(),
    MorePadding(),
    EmptyRow(),
    MisappliedMask(),
    IdleMask(),
    HidesNothing(),
    MaskDisagreement(),
    DefeatedMask(),
    UnshiftedMask(),
    PlacesOfPadding(),
    Crossing(),
    BatchDependence(),
    Future(),
    OwnLabel(),
    DecodingParity(),
    LabelShift(),
    LateCovariate(),
    LabelPlace(),
    LabelOffset(),
    BackwardTargets(),
    TextCutAcross(),
    BootstrapsPastTheEnd(),
    ScoredPadding(),
    IndexAlignment(),
    UncountedHeads(),
    ShortSum(),
    UncountedStart(),
    JoinedGraphs(),
    ScatteredBack(),
    LeftOver(),
    StillState(),
    CutState(),
    ClearedBeside(),
    HalfCleared(),
    JoinedBackwards(),
    Pairing(),
    LabelOrder(),
    PartedInTraining(),
    ExchangedWeights(),
    TiledGroups(),
    RegroupedRows(),
    ShiftNotUndone(),
    MisplacedWindows(),
    SwappedCoordinates(),
    TransposedTargets(),
    CopiedInput(),
    MaskAsTarget(),
    StepParity(),
    FullLengths(),
    IgnoredClass(),
    UnlearnedEnd(),
    UnreachableLabel(),
    OutOfReach(),
    SharedClass(),
    Contradicting(),
    CtcTargets(),
    OneClass(),
    LabelAmongInputs(),
    CarriedGraph(),
    MixedStates(),
    UnreadState(),
    OverSamples(),
    StaleCache(),
    DrawnOnce(),
    DrawnTwice(),
    TargetDrawnApart(),
    DrawnStartState(),
    IgnoredStart(),
    StateNotPicked(),
    PaddingPick(),
    PaddingRow(),
    RealPadding(),
    CrowdedRow(),
    HiddenRows(),
    OverlappingFields(),
    ViewForTranspose(),
    HeadsForPlaces(),
)
