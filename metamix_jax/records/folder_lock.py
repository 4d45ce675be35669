"""DIR/lock: one process at a time works on a folder.

The lock is flock(2) on the file DIR/lock, and belongs to the process that holds it: the kernel releases it when that
process ends, however it ends, so the next start takes over what a killed one left. The file's content, {"pid", "host",
"since"}, only says who holds it; it decides nothing.

Guaranteed on local disks, and on shared file systems that carry flock to their server: NFS version 4, NFS version 3
with its lock service, Lustre mounted with -o flock, GPFS, CephFS. There a host that loses its power holds the lock
until the server's lease ends. Not guaranteed where a mount keeps locks on each host (NFS with local_lock, Lustre with
-o localflock, most mounts of object stores): two processes of one host are still kept apart, two hosts are not. Where
locks do not exist at all, a line in the log says so.
"""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import json
import logging
import os
import pathlib
import socket
import threading
import time

from metamix_jax.errors import UserError

try:
  import fcntl
except ImportError:  # Windows.
  fcntl = None

logger = logging.getLogger("metamix_jax")

# Long enough for another process that only looks, or that is about to write its name or to leave.
_PATIENCE_SECONDS, _PAUSE_SECONDS = 1.0, 0.05
# What flock says where the file system has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Folders of this process, each with the thread that holds it.
_held: dict[pathlib.Path, int] = {}


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
  """Holds DIR/lock in a with statement, and deletes it behind; makes the folder if it does not exist.

  A thread that holds a folder already may hold it again: a command holds it from its first line, and what it calls
  need not know. A folder that was made here and is still empty behind is removed.

  Args:
    folder: DIR.

  Raises:
    UserError: another process or thread holds the folder, or the folder cannot be written to.
  """
  folder = folder.absolute()
  if _held.get(folder.resolve()) == threading.get_ident():
    yield
    return
  made = not folder.exists()
  try:
    descriptor = _acquire(folder)
  except OSError as error:
    raise UserError(
        f"workdir {folder} cannot be used ({error.strerror or error}); choose a folder that can be written to."
    ) from error
  key = folder.resolve()
  _held[key] = threading.get_ident()
  try:
    yield
  finally:
    del _held[key]
    with contextlib.suppress(OSError):  # The folder may be gone, or have been made read-only.
      (folder / "lock").unlink()  # Before it is released: whoever waits for it sees that it was deleted.
      if made:
        folder.rmdir()
    os.close(descriptor)


def is_held(folder: pathlib.Path) -> bool:
  """Returns whether another process holds DIR/lock; not for a folder that this process holds."""
  try:
    descriptor = os.open(folder / "lock", os.O_RDWR)
  except OSError:
    return False
  try:
    _flock(descriptor)
  except BlockingIOError:
    return True
  except OSError:
    return False
  finally:
    os.close(descriptor)
  return False


def _acquire(folder):
  """Returns the open file of DIR/lock, locked.

  Raises:
    UserError: another process or thread holds it.
    OSError: it cannot be made.
  """
  path, patience_ends = folder / "lock", time.monotonic() + _PATIENCE_SECONDS
  while True:
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # The holder before removed the file, or the folder, in between.
      descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
      if _lock(descriptor, path):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_this_process()).encode())
        return descriptor
      os.close(descriptor)
    if time.monotonic() > patience_ends:
      raise UserError(f"workdir {folder} is in use by {_holder(path)}; wait until it ends, stop it, or choose another"
                      " workdir.")
    time.sleep(_PAUSE_SECONDS)


def _lock(descriptor, path):
  """Locks an open file; returns whether it is now ours and still the one at the path."""
  try:
    _flock(descriptor)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      os.close(descriptor)
      raise
    logger.warning("%s: this file system has no locks (%s); nothing keeps a second run off the folder", path.parent,
                   error.strerror)
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


def _flock(descriptor):
  if fcntl is None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
  fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _this_process():
  since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
  return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _holder(path):
  """Returns who holds a lock, in words."""
  try:
    holder = json.loads(path.read_text(encoding="utf-8"))
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
  except (OSError, ValueError, KeyError, TypeError):
    return "another process"
