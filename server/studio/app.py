"""The Studio's composition root: opens every part once, in order, and takes it down.

Read `_open_studio` from top to bottom: that is the order in which a Studio is built. Shutdown goes
the other way: sockets are refused and told to go, jobs are cancelled (what was being drawn is put
back first of all), then the engines, the database and the store close.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware

from generator.engines.callback.inbox import CallbackInbox
from generator.jobs.cost import cost_by_settings
from generator.jobs.database import Database
from generator.jobs.drawing import DrawingPlace
from generator.jobs.members import Members
from generator.jobs.outlook import Outlook
from generator.jobs.paces import Paces
from generator.jobs.room import RoomOnDisk
from generator.jobs.scheduler import Scheduler
from generator.jobs.store import JobStore
from server.config.show import Show
from server.config.stores import store_of
from server.core.background_jobs import BackgroundJobs, JobBody, JobName
from server.core.clock import Clock, SystemClock
from server.core.conditions import Conditions
from server.core.host_process import HostProcess
from server.core.logs import log_metrics
from server.core.metrics import ProcessMetrics, measure_loop_lag
from server.core.output import output_conditions, output_metrics
from server.core.refusal import Refused
from server.core.unhandled import UnhandledErrors
from server.network.connections import Connections
from server.network.rate_limit import LimitedRequests
from server.network.responses import SafeHeaders
from server.network.reverse_proxy import BehindProxies, ReverseProxies
from server.studio.access import StudioAccess
from server.studio.catalogue import catalogue_of
from server.studio.documents import JobDocuments
from server.studio.feed import Feed
from server.studio.links import SealedLinks
from server.studio.opening import open_jobs
from server.studio.previews import LivePreviews
from server.studio.refusals import studio_refusal
from server.studio.routes import ROUTES
from server.studio.services import StudioServices
from server.studio.slots import studio_engines
