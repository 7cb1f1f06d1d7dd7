"""`crypten.save`, `load`, `save_from_party` and `load_from_party` without pickles: in the form of `objects`.

    call                what is in the file                     who reads and writes it
    -----------------   -------------------------------------   ---------------------------------------------
    save, load          this party's shares, which are secret   each party a file of its own
    save_from_party     plain data of rank `src`                rank `src`
    load_from_party     plain data of rank `src`                rank `src`; the others receive shares of it

A script may still pass functions of its own that write and read; then what they accept is the script's decision.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch

from contract.errors import CallerError, ConfigurationError
from contract.files import replace
from secure_computation.crypten_bridge import objects
from secure_computation.crypten_bridge.collectives import ScriptCommunicator
from secure_computation.crypten_bridge.objects import TensorEntry
from secure_computation.crypten_bridge.refusals import refuse_call
from secure_computation.crypten_bridge.session import current_session

REPLACED: Final = ("save", "load", "save_from_party", "load_from_party")
"""Names of the methods of `Storage` that stand in for CrypTen's functions."""
File = str | Path | BinaryIO


class NotATensor(CallerError, TypeError):
    """CrypTen raises TypeError here, which scripts catch."""


def _communicator() -> ScriptCommunicator:
    communicator = current_session().communicator
    if not isinstance(communicator, ScriptCommunicator):
        raise ConfigurationError("crypten.save and crypten.load are for a script's session, not for an engine's")
    return communicator


# A script that names torch's functions means CrypTen's usual form, which is the one of `objects` here.


def _save(
    f: File,
    obj: object,
    closure: Callable[..., object] | None,
    options: dict[str, Any],
    *,
    with_shares: Callable[[object], TensorEntry | None] | None = None,
) -> None:
    if closure is None or _is_torchs(closure):
        _no_options(options)
        _write(f, objects.take_apart(obj, with_shares=with_shares))
    else:
        closure(obj, f, **options)


def _load(
    f: File,
    closure: Callable[..., Any] | None,
    options: dict[str, Any],
    *,
    from_shares: objects.FromShares | None = None,
) -> Any:
    if closure is not None and not _is_torchs(closure):
        return closure(f, **options)
    _no_options(options)
    return objects.put_together(_read(f), from_shares=from_shares)


def _is_torchs(closure: object) -> bool:
    return getattr(closure, "__module__", None) == torch.serialization.__name__


def _no_options(options: dict[str, Any]) -> None:
    if options:
        raise CallerError(f"crypten.save and crypten.load take no {', '.join(options)} here; leave it out")


def _require_rank(src: int) -> int:
    if src not in {0, 1}:
        raise CallerError(f"there is no rank {src}: two parties compute, 0 and 1")
    return src


def _as_size(size: object) -> tuple[int, ...]:
    sides = torch.Size(size) if isinstance(size, list) and all(type(side) is int for side in size) else None
    if sides is None or any(side < 0 for side in sides) or sides.numel() * 8 > objects.MOST_BYTES:
        raise CallerError("the other party says that its tensor has a size that no tensor has here: split it")
    return tuple(sides)


def _write(f: File, parts: objects.Parts) -> None:
    if not isinstance(f, str | Path):
        objects.write_value(f, parts)
        return
    whole = io.BytesIO()
    objects.write_value(whole, parts)
    replace(Path(f), whole.getvalue(), mode=0o600)


def _read(f: File) -> objects.Parts:
    if not isinstance(f, str | Path):
        return objects.read_parts(f)
    try:
        with Path(f).open("rb") as file:
            return objects.read_parts(file)
    except OSError as error:
        raise CallerError(f"{f}: cannot be read ({error.strerror}); check the path") from error


class Storage:
    """CrypTen's four functions, for the current session."""

    def __init__(self, crypten: Any) -> None:
        """Make tensors of this package."""
        self._crypten = crypten

    def save(self, obj: object, f: File, save_closure: Callable[..., object] | None = None, **options: Any) -> None:
        """Write this party's shares of a CrypTen tensor, or plain data, and wait for the other party.

        A path is replaced whole and readable by its owner only: shares are secret.
        """
        _save(f, obj, save_closure, options, with_shares=self._describe_shares)
        _communicator().barrier()

    def load(self, f: File, load_closure: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Read what `save` wrote."""
        if "src" in options:
            raise CallerError("crypten.load takes no 'src'; use crypten.load_from_party")
        return _load(f, load_closure, options, from_shares=self._make_shared)

    def save_from_party(
        self, obj: object, f: File, src: int = 0, save_closure: Callable[..., object] | None = None, **options: Any
    ) -> None:
        """Rank `src` writes plain data; everybody waits until it is done."""
        if _communicator().get_rank() == _require_rank(src):
            _save(f, obj, save_closure, options)
        _communicator().barrier()

    def load_from_party(  # noqa: PLR0917 - CrypTen's interface
        self,
        f: File | None = None,
        preloaded: object = None,
        encrypted: bool = False,  # noqa: FBT001, FBT002
        model_class: object = None,
        src: int = 0,
        load_closure: Callable[..., Any] | None = None,
        **options: Any,
    ) -> Any:
        """Rank `src` reads a tensor, or has it as `preloaded`; both get an encrypted tensor of it.

        The other party learns its shape. Raises CallerError at both parties if it is no tensor: neither waits.
        """
        if encrypted:
            refuse_call("crypten.load_from_party(encrypted=True)")
        if model_class is not None:
            refuse_call("crypten.load_from_party(model_class=...)")
        communicator = _communicator()
        value = None
        if communicator.get_rank() == _require_rank(src):
            if (f is None) == (preloaded is None):
                raise CallerError("give crypten.load_from_party either a file or 'preloaded'")
            value = preloaded if f is None else _load(f, load_closure, options)
        tensor = value if isinstance(value, torch.Tensor) else None
        size = communicator.broadcast_obj(None if tensor is None else list(tensor.shape), src)
        if size is None:
            raise NotATensor("crypten.load_from_party found something that is no tensor: save a tensor there")
        result = self._crypten.cryptensor(torch.zeros(_as_size(size)) if tensor is None else tensor, src=src)
        result.src = src
        return result

    def _describe_shares(self, value: object) -> TensorEntry | None:
        if not isinstance(value, self._crypten.mpc.MPCTensor):
            return None
        tensor: Any = value
        return TensorEntry.model_validate(
            {
                "dtype": "int64",
                "shape": tuple(tensor.share.shape),
                "shares": tensor.ptype.name,
                "rank": _communicator().get_rank(),
                "scale": tensor.encoder.scale,
                "requires_grad": tensor.requires_grad,
            }
        )

    def _make_shared(self, share: torch.Tensor, entry: TensorEntry) -> Any:
        own = _communicator().get_rank()
        if entry.rank != own:  # with two equal shares the value would be another, and nothing would say so
            raise CallerError(
                f"this file holds a share of rank {entry.rank}, and this is rank {own}: each party saves and loads a "
                "file of its own"
            )
        mpc = self._crypten.mpc
        tensor = mpc.MPCTensor.from_shares(share, ptype=mpc.ptype[entry.shares])
        tensor.encoder._scale = entry.scale  # noqa: SLF001 - CrypTen has no public way to set a scale
        tensor.requires_grad = entry.requires_grad
        return tensor
