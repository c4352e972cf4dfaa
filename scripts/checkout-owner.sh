# Sourced by install.sh: runs commands as the user to whom this checkout belongs, so that root runs nothing of his.
# shellcheck shell=bash

CHECKOUT_OWNER=$(stat -c %u .)
readonly CHECKOUT_OWNER

# as_owner COMMAND...: with the owner's rights alone, and without a terminal into which it could type.
as_owner() {
  if [ "$CHECKOUT_OWNER" = 0 ]; then
    "$@" </dev/null
    return
  fi
  local entry home=/nonexistent gid
  gid=$(stat -c %g .)
  if entry=$(getent passwd "$CHECKOUT_OWNER"); then
    gid=$(cut -d: -f4 <<<"$entry")
    home=$(cut -d: -f6 <<<"$entry")
  fi
  setsid --wait setpriv --reuid "$CHECKOUT_OWNER" --regid "$gid" --clear-groups --no-new-privs \
    env -i "HOME=$home" "PATH=$PATH" "TERM=${TERM:-dumb}" "$@" </dev/null
}
