#!/usr/bin/env bash
# Lists the traits of a Traitwatch server. Then asks for an answer with its scores, and for a streamed answer. Needs jq.
#
# OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none OPENAI_MODEL=SmolLM2-135M-Instruct ./curl.sh
set -euo pipefail

call() { curl --silent --show-error --fail-with-body --no-buffer -H "Authorization: Bearer $OPENAI_API_KEY" "$@"; }

ask() { # takes more fields of the request, as JSON
    jq --null-input --arg model "$OPENAI_MODEL" --argjson more "$1" '{
        model: $model, temperature: 0, max_tokens: 60, traits: true,
        messages: [{role: "user", content: "How should I start a small bakery?"}]} + $more' |
        call "$OPENAI_BASE_URL/chat/completions" -H "Content-Type: application/json" --data @-
}

# The filters below share these definitions: a number for the table, and the rows of a choice's scores.
read -r -d '' definitions <<'JQ' || true
def number: if . == null then "-" else . * 100 | round / 100 end;
def scores:
    ["trait", "mean", "z", "max z", "spikes"],
    ((.traits // {}) | to_entries[]
        | [.key, (.value.mean, .value.z, .value.max_z | number), (.value.spikes | length)]),
    (if .traits_complete then empty else ["Some tokens have no score. The numbers come from the other tokens."] end)
    | @tsv;
JQ

echo "trait	layer	threshold"
call "$OPENAI_BASE_URL/traits" | jq --raw-output "$definitions"'
    .data[] | [.id, .layer, (.threshold.z | number)] | @tsv'

echo
ask '{}' | jq --raw-output "$definitions"' .choices[0] | "answer: \(.message.content | tojson)", scores'

echo
echo "streamed: the projections of the first trait that came with each part"
ask '{"stream": true}' | sed --unbuffered --quiet 's/^data: {/{/p' | jq --unbuffered --raw-output "$definitions"'
    .choices[]
    | "\([(.traits // {})[].tokens][0] // [] | map(number) | join(" "))\t\(.delta.content // "" | tojson)",
      if .finish_reason then scores else empty end'
