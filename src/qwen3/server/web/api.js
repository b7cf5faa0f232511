/** The server, as the page sees it: JSON requests, and answers that stream in. It knows nothing of the document. */

const KEY = 'qwen3.key';

/** `status` is 0 where no answer came at all. `code` is the word that OpenAI's errors carry for programs. */
export class ApiError extends Error {
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The key lives as long as the browser's tab. */
export const setKey = (key) => sessionStorage.setItem(KEY, key);

async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'The server does not answer. Is it still running?');
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const fault = body?.error ?? {};
  throw new ApiError(response.status, fault.message ?? `The server answered with status ${response.status}.`, fault.code);
}

const post = (path, body, signal) =>
  request(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body), signal });

export const getSetup = async () => (await request('/web/setup.json')).json();

export const getMemoryChoices = async () => (await request('/v1/memory/choices')).json();

export async function getMemory(query, signal) {
  return (await request(`/v1/memory?${new URLSearchParams(query)}`, { signal })).json();
}

export const endThinking = (id) => post(`/v1/chat/completions/${encodeURIComponent(id)}/end_thinking`, {});

/** The chunks of a streamed answer. Throws ApiError for a refusal, a failure on the way, and a stream without an end. */
export async function* streamChat(body, signal) {
  const options = { stream: true, return_progress: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  const response = await post('/v1/chat/completions', { ...body, ...options }, signal);
  for await (const data of events(response.body)) {
    if (data === '[DONE]') return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.status ?? 500, chunk.error.message, chunk.error.code);
    yield chunk;
  }
  throw new ApiError(0, 'The connection ended before the answer did.');
}

/** The data of server-sent events. Comments, which keep a connection open, are skipped. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        if (error.name === 'AbortError') throw error;
        throw new ApiError(0, 'The connection broke before the answer ended.');
      }
      if (part.done) return;
      const lines = (rest + part.value).split('\n');
      rest = lines.pop();
      for (const line of lines) if (line.startsWith('data:')) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
