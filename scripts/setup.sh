#!/usr/bin/env bash
# Finds the Pythons that can run Traitwatch, and starts setup.py with these Pythons as arguments, best first.
# PYTHON=/path/to/python overrides the choice.
set -euo pipefail

# The same range as requires-python in pyproject.toml.
readonly SUPPORTED="3.11 3.12 3.13"

# Print the base executable: with an active .venv, `python3` is the interpreter that a rebuild deletes.
readonly PROBE='import sys; print("%d.%d" % sys.version_info[:2], getattr(sys, "_base_executable", "") or sys.executable)'

if [ -n "${PYTHON:-}" ]; then
    names=("$PYTHON")
else
    names=(python3 python3.13 python3.12 python3.11)
fi

found=()
seen=""
for name in "${names[@]}"; do
    # pyenv has a shim for every installed version. The shim of a version that is not selected fails.
    answer=$("$name" -c "$PROBE" 2>/dev/null </dev/null) || continue
    version=${answer%% *}
    seen="${seen:+$seen, }$name is $version"
    case " $SUPPORTED " in
        *" $version "*) found+=("${answer#* }") ;;
    esac
done

if [ ${#found[@]} -eq 0 ]; then
    if [ -n "${PYTHON:-}" ]; then
        echo "setup: Traitwatch needs Python 3.11 to 3.13, and ${seen:-$PYTHON does not run}: set PYTHON to another." >&2
    else
        echo "setup: no Python 3.11 to 3.13 found${seen:+ ($seen)}: install one, or set PYTHON to the path of one." >&2
    fi
    exit 1
fi

exec "${found[0]}" "$(dirname "$0")/setup.py" "${found[@]}"
