"""The life of a session: every legal step, every illegal one, the clock, and races."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import select

from bookkeeping.audit_log import read_log
from contract.api import (
    Failure,
    ModelRegistration,
    PhaseSeconds,
    SentBytes,
    SessionEvent,
    SessionReport,
    SessionRequest,
    SessionState,
    SessionView,
)
from contract.api import SessionEventName as Event
from contract.api import SessionState as State
from contract.errors import CallerError, Refused
from contract.identity import Party, Role
from contract.ticket import PUBLIC_KEY_FILE, Engine, Purpose, load_public_key, verify_ticket
from inference_service.accounts import Account, AccountRole
from inference_service.problems import Conflict, NotFound, TooMany
from inference_service.session_states import LIVE, TRANSITIONS, Actor, find_next_state
from inference_service.storage import SessionEventRow, SessionRow
from tests.inference_service.builders import card, registration
from tests.inference_service.conftest import FrontEnd, Keys

PAIRS = [(state, event) for state in State for event in Event]
LEGAL = [(purpose, *pair) for purpose, table in TRANSITIONS.items() for pair in table]
ILLEGAL = [(purpose, *pair) for purpose in Purpose for pair in PAIRS if pair not in TRANSITIONS[purpose]]
FINAL = {State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED, State.TURNED_AWAY, State.ACCUSED}
STATES = [
    (purpose, state)
    for purpose in Purpose
    for state in State
    if state in FINAL or (state, Event.FAIL) in TRANSITIONS[purpose]
]
REQUEST = SessionRequest(model="resnet", engine=Engine.CRYPTEN)
REQUESTS = {
    Purpose.DIAGNOSE: REQUEST,
    Purpose.PREPARE: SessionRequest(model="resnet", engine=Engine.MASKED, purpose=Purpose.PREPARE),
}
FAILURE = SessionReport(failure=Failure(code="transport", message="the link broke: try again"))
PATH_TO: dict[State, list[Event]] = {
    State.OPENED: [],
    State.PREPARING: [Event.PREPARE],
    State.RUNNING: [Event.PREPARE, Event.RUN],
    State.COMPLETED: [Event.RUN, Event.COMPLETE],
    State.FAILED: [Event.FAIL],
    State.CANCELLED: [Event.CANCEL],
    State.TURNED_AWAY: [Event.TURN_AWAY],
    State.ACCUSED: [Event.ACCUSE],
}
PATHS = {Purpose.DIAGNOSE: PATH_TO, Purpose.PREPARE: PATH_TO | {State.COMPLETED: [Event.PREPARE, Event.COMPLETE]}}


def endings(*live: State) -> dict[tuple[State, Event], State]:
    ends = {Event.FAIL: State.FAILED, Event.CANCEL: State.CANCELLED, Event.EXPIRE: State.EXPIRED}
    early = {(state, event): end for state in live for event, end in ends.items()}
    away = {(state, Event.TURN_AWAY): State.TURNED_AWAY for state in (State.OPENED, State.PREPARING, State.FAILED)}
    ended = (State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED)
    return early | away | {(state, Event.ACCUSE): State.ACCUSED for state in (*live, *ended)}


class TestTable:
    def test_it_says_what_the_essay_says(self) -> None:
        said = {
            purpose: {pair: transition.state for pair, transition in table.items()}
            for purpose, table in TRANSITIONS.items()
        }
        assert said[Purpose.DIAGNOSE] == {
            (State.OPENED, Event.PREPARE): State.PREPARING,
            (State.OPENED, Event.RUN): State.RUNNING,
            (State.PREPARING, Event.RUN): State.RUNNING,
            (State.RUNNING, Event.AUDIT): State.RUNNING,
            (State.RUNNING, Event.COMPLETE): State.COMPLETED,
            **endings(State.OPENED, State.PREPARING, State.RUNNING),
        }
        assert said[Purpose.PREPARE] == {
            (State.OPENED, Event.PREPARE): State.PREPARING,
            (State.PREPARING, Event.COMPLETE): State.COMPLETED,
            **endings(State.OPENED, State.PREPARING),
        }
        assert set(said) == set(Purpose)
        assert set(State) - FINAL == LIVE

    @pytest.mark.parametrize(("purpose", "state", "event"), ILLEGAL)
    @pytest.mark.parametrize("actor", Actor)
    def test_an_illegal_event_is_a_conflict_whoever_causes_it(
        self, purpose: Purpose, state: State, event: Event, actor: Actor
    ) -> None:
        with pytest.raises(Conflict, match=event.value):
            find_next_state(purpose, state, event, actor=actor)

    @pytest.mark.parametrize(("purpose", "state", "event"), LEGAL)
    @pytest.mark.parametrize("actor", Actor)
    def test_only_the_named_actors_cause_a_legal_event(
        self, purpose: Purpose, state: State, event: Event, actor: Actor
    ) -> None:
        allowed = {
            Event.EXPIRE: {Actor.CLOCK},
            Event.FAIL: {Actor.DATA_OWNER, Actor.MODEL_OWNER},
            Event.TURN_AWAY: {Actor.MODEL_OWNER},
            Event.ACCUSE: {Actor.MODEL_OWNER},
            Event.AUDIT: {Actor.MODEL_OWNER},
        }
        if actor in allowed.get(event, {Actor.DATA_OWNER}):
            assert find_next_state(purpose, state, event, actor=actor) is TRANSITIONS[purpose][state, event].state
        else:
            with pytest.raises(Refused, match="only the"):
                find_next_state(purpose, state, event, actor=actor)


@pytest.fixture
def accounts(front_end: FrontEnd, keys: Keys, registered: ModelRegistration) -> dict[str, Account]:
    return {name: front_end.service.accounts.authenticate(key) for name, key in vars(keys).items()}


@pytest.fixture
def clinician(accounts: dict[str, Account]) -> Account:
    return accounts["clinician"]


@pytest.fixture
def stocking(front_end: FrontEnd, keys: Keys) -> None:
    """A version that the masked engine serves as well, in place of the one that it does not."""
    newer = registration(card=card(version="1.1.0"), engines=(Engine.MASKED, Engine.CRYPTEN))
    account = front_end.service.accounts.authenticate(keys.model_owner)
    front_end.service.catalog.register(account, name="resnet", version="1.1.0", registration=newer)


def event_of(name: Event) -> SessionEvent:
    if name is Event.AUDIT:
        return SessionEvent(event=name, report=SessionReport(audited=1))
    has_reason = name in {Event.FAIL, Event.TURN_AWAY, Event.ACCUSE}
    return SessionEvent(event=name, report=FAILURE if has_reason else None)


def report(front_end: FrontEnd, data_owner: Account, session: UUID, name: Event) -> SessionView:
    """An event from whoever may report it; of two, the data owner."""
    owner = next(account for account in front_end.service.accounts.list() if account.organisation == "north-lab")
    actor = owner if name in {Event.TURN_AWAY, Event.ACCUSE, Event.AUDIT} else data_owner
    return front_end.service.sessions.apply(actor, session, event_of(name))


def session_in(front_end: FrontEnd, account: Account, state: State, *, purpose: Purpose = Purpose.DIAGNOSE) -> UUID:
    sessions = front_end.service.sessions
    session = sessions.open(account, REQUESTS[purpose]).id
    if state is State.EXPIRED:
        front_end.clock.move(minutes=16)
    for name in PATHS[purpose].get(state, []):
        report(front_end, account, session, name)
    assert sessions.view(account, session).state is state
    return session


def trail(front_end: FrontEnd, session: UUID) -> list[tuple[str, bool]]:
    with front_end.service.database.read() as database:
        rows = database.scalars(
            select(SessionEventRow).where(SessionEventRow.session_id == session).order_by(SessionEventRow.id)
        )
        return [(row.event, row.account_id is None) for row in rows]


class TestOpening:
    def test_the_ticket_says_what_was_asked_and_lives_as_long_as_the_session(
        self, front_end: FrontEnd, clinician: Account, registered: ModelRegistration
    ) -> None:
        view = front_end.service.sessions.open(clinician, REQUEST)
        assert view.ticket is not None
        claims = verify_ticket(
            view.ticket,
            public_keys=[load_public_key(front_end.settings.data_folder / PUBLIC_KEY_FILE)],
            now=front_end.clock(),
            party=Party(role=Role.MODEL_OWNER, organisation="north-lab"),
        )
        assert (claims.session, claims.account) == (view.id, str(clinician.id))
        assert (claims.model, claims.version, claims.plan_hash) == ("resnet", "1.0.0", registered.plan_hash)
        assert (claims.data_owner, claims.model_owner, claims.crypto_provider) == (
            "st-mary",
            "north-lab",
            "trust-centre",
        )
        assert (claims.iat, claims.exp) == (int(view.created_at.timestamp()), int(view.expires_at.timestamp()))
        assert claims.exp - claims.iat == 15 * 60

    def test_the_ticket_is_shown_once_and_not_kept(self, front_end: FrontEnd, clinician: Account) -> None:
        view = front_end.service.sessions.open(clinician, REQUEST)
        assert view.ticket is not None
        assert view.ticket not in repr(view)
        assert front_end.service.sessions.view(clinician, view.id).ticket is None
        stored = b"".join(file.read_bytes() for file in front_end.settings.data_folder.glob("*.sqlite*"))
        assert view.ticket.encode() not in stored

    @pytest.mark.parametrize("who", ["model_owner", "operator", "crypto_provider"])
    def test_only_a_clinician_opens_sessions(self, front_end: FrontEnd, accounts: dict[str, Account], who: str) -> None:
        with pytest.raises(Refused, match="clinician"):
            front_end.service.sessions.open(accounts[who], REQUEST)

    def test_an_engine_that_the_model_lacks(self, front_end: FrontEnd, clinician: Account) -> None:
        with pytest.raises(CallerError, match="crypten"):
            front_end.service.sessions.open(clinician, SessionRequest(model="resnet", engine=Engine.MASKED))

    def test_an_engine_whose_material_cannot_be_stocked(self, front_end: FrontEnd, clinician: Account) -> None:
        request = SessionRequest(model="resnet", engine=Engine.CRYPTEN, purpose=Purpose.PREPARE)
        with pytest.raises(CallerError, match="of engine crypten cannot be prepared ahead: open a session to diagnose"):
            front_end.service.sessions.open(clinician, request)

    @pytest.mark.parametrize(
        ("request_", "words"),
        [
            (SessionRequest(model="resnet", engine=Engine.CRYPTEN, images=2), "crypten evaluates one image a session"),
            (REQUESTS[Purpose.PREPARE].model_copy(update={"images": 2}), "a session to prepare stocks one item"),
        ],
    )
    def test_several_images_where_they_cannot_be(
        self, front_end: FrontEnd, clinician: Account, stocking: None, request_: SessionRequest, words: str
    ) -> None:
        with pytest.raises(CallerError, match=words):
            front_end.service.sessions.open(clinician, request_)

    def test_a_ticket_says_how_many_images(self, front_end: FrontEnd, clinician: Account, stocking: None) -> None:
        request = SessionRequest(model="resnet", engine=Engine.MASKED, images=3)
        view = front_end.service.sessions.open(clinician, request)
        claims = verify_ticket(
            view.ticket or "",
            public_keys=[load_public_key(front_end.settings.data_folder / PUBLIC_KEY_FILE)],
            now=front_end.clock(),
            party=Party(role=Role.DATA_OWNER, organisation="st-mary"),
        )
        assert (claims.images, view.images) == (3, 3)
        assert front_end.service.sessions.view(clinician, view.id).images == 3

    def test_a_ticket_to_prepare_says_so(self, front_end: FrontEnd, clinician: Account, stocking: None) -> None:
        view = front_end.service.sessions.open(clinician, REQUESTS[Purpose.PREPARE])
        claims = verify_ticket(
            view.ticket or "",
            public_keys=[load_public_key(front_end.settings.data_folder / PUBLIC_KEY_FILE)],
            now=front_end.clock(),
            party=Party(role=Role.DATA_OWNER, organisation="st-mary"),
        )
        assert (claims.purpose, view.purpose) == (Purpose.PREPARE, Purpose.PREPARE)

    @pytest.mark.parametrize(("model", "version"), [("absent", None), ("resnet", "9.9.9")])
    def test_a_model_that_is_not_in_service(
        self, front_end: FrontEnd, clinician: Account, model: str, version: str | None
    ) -> None:
        with pytest.raises(NotFound):
            front_end.service.sessions.open(
                clinician, SessionRequest(model=model, version=version, engine=Engine.CRYPTEN)
            )

    def test_live_sessions_of_an_account_are_limited(self, front_end: FrontEnd, clinician: Account) -> None:
        sessions = front_end.service.sessions
        opened = [sessions.open(clinician, REQUEST).id for _ in range(4)]
        with pytest.raises(TooMany):
            sessions.open(clinician, REQUEST)
        sessions.apply(clinician, opened[0], event_of(Event.CANCEL))
        sessions.open(clinician, REQUEST)
        front_end.clock.move(minutes=16)
        assert sessions.open(clinician, REQUEST).state is SessionState.OPENED  # the four have run out of time


@pytest.mark.usefixtures("stocking")
class TestEvents:
    @pytest.mark.parametrize(("purpose", "state", "event"), [legal for legal in LEGAL if legal[2] is not Event.EXPIRE])
    def test_a_legal_event_is_recorded_with_its_actor(
        self, front_end: FrontEnd, clinician: Account, purpose: Purpose, state: State, event: Event
    ) -> None:
        session = session_in(front_end, clinician, state, purpose=purpose)
        after = report(front_end, clinician, session, event)
        assert after.state is TRANSITIONS[purpose][state, event].state
        assert front_end.service.sessions.view(clinician, session) == after
        assert trail(front_end, session)[-1] == (event.value, False)

    @pytest.mark.parametrize(("purpose", "state"), STATES)
    def test_no_illegal_event_changes_anything(
        self, front_end: FrontEnd, clinician: Account, purpose: Purpose, state: State
    ) -> None:
        session = session_in(front_end, clinician, state, purpose=purpose)
        before, history = front_end.service.sessions.view(clinician, session), trail(front_end, session)
        for event in (event for for_, of, event in ILLEGAL if (for_, of) == (purpose, state)):
            with pytest.raises(Conflict):
                report(front_end, clinician, session, event)
            assert front_end.service.sessions.view(clinician, session) == before
            assert trail(front_end, session) == history

    def test_reports_add_up(self, front_end: FrontEnd, clinician: Account) -> None:
        sessions = front_end.service.sessions
        session = session_in(front_end, clinician, State.PREPARING)
        sent = SentBytes(data_owner=1, model_owner=2, crypto_provider=3)
        seconds = PhaseSeconds(offline=1.5, online=0.5)
        sessions.apply(clinician, session, SessionEvent(event=Event.RUN, report=SessionReport(bytes_sent=sent)))
        view = sessions.apply(
            clinician, session, SessionEvent(event=Event.COMPLETE, report=SessionReport(seconds=seconds))
        )
        assert (view.bytes_sent, view.seconds, view.failure) == (sent, seconds, None)

    def test_a_model_owner_reports_why_its_session_failed_and_nothing_else(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        session = session_in(front_end, accounts["clinician"], State.RUNNING)
        report = FAILURE.model_copy(update={"seconds": PhaseSeconds(offline=9, online=9)})
        view = front_end.service.sessions.apply(
            accounts["model_owner"], session, SessionEvent(event=Event.FAIL, report=report)
        )
        assert (view.state, view.failure, view.seconds) == (State.FAILED, FAILURE.failure, None)

    @pytest.mark.parametrize("who", ["clinician", "colleague", "gateway", "operator", "crypto_provider"])
    @pytest.mark.parametrize("state", [State.OPENED, State.FAILED])
    def test_nobody_but_its_model_owner_gives_a_session_back(
        self, front_end: FrontEnd, accounts: dict[str, Account], who: str, state: State
    ) -> None:
        session = session_in(front_end, accounts["clinician"], state)
        with pytest.raises((Refused, NotFound)):
            front_end.service.sessions.apply(accounts[who], session, event_of(Event.TURN_AWAY))
        assert front_end.service.sessions.view(accounts["clinician"], session).state is state

    @pytest.mark.parametrize("who", ["clinician", "colleague", "gateway", "operator", "crypto_provider"])
    def test_nobody_but_its_model_owner_accuses_the_data_owner_of_a_session(
        self, front_end: FrontEnd, accounts: dict[str, Account], who: str
    ) -> None:
        session = session_in(front_end, accounts["clinician"], State.RUNNING)
        with pytest.raises((Refused, NotFound)):
            front_end.service.sessions.apply(accounts[who], session, event_of(Event.ACCUSE))
        assert front_end.service.sessions.view(accounts["clinician"], session).state is State.RUNNING

    @pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELLED])
    def test_whatever_the_data_owner_reported_first_the_accusation_is_recorded(
        self, front_end: FrontEnd, accounts: dict[str, Account], state: State
    ) -> None:
        session = session_in(front_end, accounts["clinician"], state)
        view = front_end.service.sessions.apply(accounts["model_owner"], session, event_of(Event.ACCUSE))
        assert (view.state, view.failure) == (State.ACCUSED, FAILURE.failure)
        *_, last = read_log(front_end.service.audit._folder)
        assert (last.event, last.session, last.state) == ("session-changed", session, "accused")

    @pytest.mark.parametrize("who", ["model_owner", "colleague", "operator"])
    def test_nobody_completes_a_session_for_the_data_owner(
        self, front_end: FrontEnd, accounts: dict[str, Account], who: str
    ) -> None:
        session = session_in(front_end, accounts["clinician"], State.RUNNING)
        with pytest.raises(Refused, match="only the"):
            front_end.service.sessions.apply(accounts[who], session, event_of(Event.COMPLETE))
        assert front_end.service.sessions.view(accounts[who], session).state is State.RUNNING

    @pytest.mark.parametrize("who", ["stranger", "other_model_owner", "crypto_provider"])
    def test_others_cannot_tell_a_session_from_none(
        self, front_end: FrontEnd, accounts: dict[str, Account], who: str
    ) -> None:
        session = session_in(front_end, accounts["clinician"], State.RUNNING)
        with pytest.raises(NotFound) as of_another:
            front_end.service.sessions.view(accounts[who], session)
        with pytest.raises(NotFound) as of_nobody:
            front_end.service.sessions.view(accounts[who], UUID(int=0))
        assert str(of_another.value) == str(of_nobody.value)
        with pytest.raises(NotFound):
            front_end.service.sessions.apply(accounts[who], session, event_of(Event.FAIL))

    def test_organisations_of_the_same_name_but_another_role_see_nothing(
        self, front_end: FrontEnd, accounts: dict[str, Account]
    ) -> None:
        session = session_in(front_end, accounts["clinician"], State.RUNNING)
        namesake, _ = front_end.account(AccountRole.MODEL_OWNER, "st-mary")
        with pytest.raises(NotFound):
            front_end.service.sessions.view(namesake, session)


class TestClock:
    @pytest.mark.parametrize("state", sorted(LIVE))
    def test_a_session_left_alone_expires_when_somebody_looks(
        self, front_end: FrontEnd, clinician: Account, state: State
    ) -> None:
        session = session_in(front_end, clinician, state)
        front_end.clock.move(minutes=14, seconds=59)
        assert front_end.service.sessions.view(clinician, session).state is state
        front_end.clock.move(seconds=1)
        assert front_end.service.sessions.view(clinician, session).state is State.EXPIRED
        assert trail(front_end, session)[-1] == ("expire", True)

    def test_a_late_event_finds_the_session_expired(self, front_end: FrontEnd, clinician: Account) -> None:
        session = session_in(front_end, clinician, State.RUNNING)
        front_end.clock.move(minutes=15)
        with pytest.raises(Conflict, match="expired"):
            front_end.service.sessions.apply(clinician, session, event_of(Event.COMPLETE))
        assert trail(front_end, session)[-1] == ("expire", True)

    def test_the_sweep_ends_what_nobody_looks_at_and_only_that(self, front_end: FrontEnd, clinician: Account) -> None:
        overdue = [session_in(front_end, clinician, state) for state in (State.OPENED, State.RUNNING)]
        session_in(front_end, clinician, State.COMPLETED)
        front_end.clock.move(minutes=15)
        young = session_in(front_end, clinician, State.RUNNING)
        for session in overdue:  # opening the young one swept this account already
            assert trail(front_end, session)[-1] == ("expire", True)
        assert front_end.service.sessions.sweep() == 0
        front_end.clock.move(minutes=15)
        assert front_end.service.sessions.sweep() == 1
        assert trail(front_end, young)[-1] == ("expire", True)


class TestRaces:
    def test_of_two_events_at_once_one_wins(self, front_end: FrontEnd, clinician: Account) -> None:
        sessions = front_end.service.sessions

        def attempt(session: UUID, event: Event, barrier: threading.Barrier) -> SessionView | Conflict:
            barrier.wait(timeout=10)
            try:
                return sessions.apply(clinician, session, event_of(event))
            except Conflict as error:
                return error

        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                session = session_in(front_end, clinician, State.RUNNING)
                barrier = threading.Barrier(4)
                events = [Event.COMPLETE, Event.FAIL, Event.CANCEL, Event.COMPLETE]
                outcomes = list(pool.map(lambda event, s=session, b=barrier: attempt(s, event, b), events))
                winners = [outcome for outcome in outcomes if isinstance(outcome, SessionView)]
                assert len(winners) == 1
                assert sessions.view(clinician, session).state is winners[0].state
                assert len(trail(front_end, session)) == 3

    def test_a_stale_reader_cannot_overwrite(self, front_end: FrontEnd, clinician: Account) -> None:
        """The last defence by itself: the state changes only where it is the one that was read."""
        sessions, database = front_end.service.sessions, front_end.service.database
        session = session_in(front_end, clinician, State.RUNNING)
        with database.read() as reading:
            stale = reading.get(SessionRow, session)
            assert stale is not None
            reading.expunge(stale)
        sessions.apply(clinician, session, event_of(Event.CANCEL))
        with pytest.raises(Conflict, match="same time"), database.write() as writing:
            sessions._move(writing, stale, Event.COMPLETE, State.COMPLETED, account=clinician)
        assert sessions.view(clinician, session).state is State.CANCELLED
