#!/usr/bin/env bash
# Installs the missing programs of `make demo-alerts`, `make test-e2e` and `make test-containers` from Debian's packages.
set -euo pipefail
# Debian has debootstrap and ip in these folders, which are not in the PATH of every user.
PATH="$PATH:/usr/sbin:/sbin"

missing=()
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing+=(prometheus)
command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null || missing+=(prometheus-alertmanager)
command -v chromium >/dev/null || missing+=(chromium)
command -v curl >/dev/null || missing+=(curl)
command -v jq >/dev/null || missing+=(jq)
command -v node >/dev/null && command -v npm >/dev/null || missing+=(nodejs npm)
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v ip >/dev/null || missing+=(iproute2)
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "programs: ${missing[*]} not found, and no apt-get to install them with: install them by hand." >&2
    exit 1
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q

# Ubuntu does not have all of these packages. apt-get installs nothing if one package is unknown.
known=() unknown=()
for package in "${missing[@]}"; do
    if apt-cache show "$package" >/dev/null 2>&1; then known+=("$package"); else unknown+=("$package"); fi
done
# Run level 1 keeps Debian from starting the services at once.
[ ${#known[@]} -eq 0 ] || "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -q -y --no-install-recommends "${known[@]}"
if [ ${#unknown[@]} -gt 0 ]; then
    echo "programs: this system has no package ${unknown[*]}; install it by hand for what needs it (chromium: the" \
        "browser tests alone)." >&2
    exit 1
fi
