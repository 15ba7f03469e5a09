// check_answers.mjs PROVIDER URL KEY MODEL: prints "ok" if the AI SDK accepts every answer.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

const [provider, url, apiKey, name] = process.argv.slice(2);
const baseURL = `${url}/v1`;
const openai = createOpenAI({ baseURL, apiKey });
const models = {
  chat: () => openai.chat(name),
  completion: () => openai.completion(name),
  responses: () => openai.responses(name),
  compatible: () => createOpenAICompatible({ name: "own", baseURL, apiKey })(name),
  messages: () => createAnthropic({ baseURL, apiKey })(name),
};
const model = models[provider]();

const cities = [];
const weather = tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    cities.push(city);
    return "rain";
  },
});
const plain = { model, prompt: "Say something.", maxRetries: 0 };
const withTool = {
  ...plain,
  tools: { weather },
  stopWhen: isStepCount(3),
  providerOptions: { openai: { store: false } },
};

async function read(stream) {
  for await (const part of stream.fullStream) {
    if (part.type === "error") throw part.error;
  }
  return { text: await stream.text };
}

const requests = provider === "completion" ? [plain] : [plain, withTool];
for (const request of requests) {
  for (const answer of [await generateText(request), await read(streamText(request))]) {
    assert.notEqual(answer.text, "");
  }
}
assert.deepEqual(cities, provider === "completion" ? [] : ["Oslo", "Oslo"]);
console.log("ok");
