// Lists the traits of a Traitwatch server. Then asks for an answer with its scores, and for a streamed answer.
//
// OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none OPENAI_MODEL=SmolLM2-135M-Instruct \
//     node javascript_openai.mjs [TRAIT]

import OpenAI from "openai";

const model = process.env.OPENAI_MODEL;
const messages = [{ role: "user", content: "How should I start a small bakery?" }];

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY

/** Print the loaded traits, and return the server's data on each. */
async function listTraits() {
  const { data } = await client.get("/traits");
  console.log("trait".padEnd(20) + "layer".padStart(9) + "threshold".padStart(11));
  for (const { id, layer, threshold } of data) {
    console.log(id.padEnd(20) + String(layer).padStart(9) + number(threshold?.z).padStart(11));
  }
  return data;
}

/** Print an answer and its scores. */
async function ask() {
  const completion = await client.chat.completions.create({
    model, messages, temperature: 0, max_tokens: 60, traits: true,
  });
  const [choice] = completion.choices;
  console.log(`\nanswer: ${JSON.stringify(choice.message.content)}`);
  printScores(choice);
}

/** Print an answer as it comes. Each part follows the mean z so far (uncalibrated: mean projection) of a trait. */
async function stream({ id, calibration }) {
  console.log(`\nstreamed: ${id} so far`);
  const projections = [];
  let last = {};
  const chunks = await client.chat.completions.create({
    model, messages, temperature: 0, max_tokens: 60, traits: true, stream: true,
  });
  for await (const chunk of chunks) {
    for (const choice of chunk.choices) {
      projections.push(...(choice.traits?.[id]?.tokens ?? []).filter((projection) => projection !== null));
      let mean = projections.length ? projections.reduce((a, b) => a + b) / projections.length : null;
      if (mean !== null && calibration) mean = (mean - calibration.mean) / calibration.std;
      console.log(`${number(mean).padStart(9)}  ${JSON.stringify(choice.delta.content ?? "")}`);
      if (choice.finish_reason) last = choice;
    }
  }
  printScores(last);
}

/** Print the summary of the scores, which stands beside OpenAI's own fields. */
function printScores({ traits = {}, traits_complete: complete }) {
  console.log("trait".padEnd(20) + ["mean", "z", "max z", "spikes"].map((head) => head.padStart(9)).join(""));
  for (const [name, { mean, z, max_z: highest, spikes }] of Object.entries(traits)) {
    const cells = [number(mean), number(z), number(highest), String(spikes.length)];
    console.log(name.padEnd(20) + cells.map((cell) => cell.padStart(9)).join(""));
  }
  if (!complete) console.log("Some tokens have no score. The numbers come from the other tokens.");
}

/** Return a number for the table, or a dash for an unknown number. */
function number(value) {
  return value === null || value === undefined ? "-" : value.toFixed(2);
}

const traits = await listTraits();
await ask();
await stream(traits.find(({ id }) => id === process.argv[2]) ?? traits[0]);
