"""A loopback server that speaks what training asks of vLLM, with a model in it that really computes.

It loads the weights that it is given from a folder, writes answers with them by the request's seed, and tells token ids
and log-probs at the request's temperature. What a server can do wrong is injected: see the attributes of `TinyVLLM`.
Run as a program it takes the arguments of `vllm serve` that it knows and ignores the others.
"""

import argparse
import asyncio
import contextlib
import copy
from pathlib import Path

import torch
from aiohttp import web
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


class TinyVLLM:
    """Attributes may be changed while it runs.

    `keeps` is the beginning of names of weights that a reload does not reach; `bend(choice)` changes an answer before
    it is sent; `faults` maps a path to a status or to "hang"; `orders` are the development calls so far, in order.
    """

    def __init__(self, folder, *, name="tiny", context=96, rows=4, logprobs_mode="processed_logprobs"):
        config = AutoConfig.from_pretrained(folder)
        torch.manual_seed(1)  # not the weights in the folder: "dummy" ones
        self.model = AutoModelForCausalLM.from_config(config).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.name, self.context, self.rows, self.logprobs_mode = name, context, rows, logprobs_mode
        self.keeps, self.bend, self.faults = None, lambda choice: choice, {}
        self.mark, self.paused, self.orders, self.requests = "default", False, [], []
        self.latency_s, self.in_flight, self.peak_in_flight, self.looks = 0.001, 0, 0, 0
        self._runner = None

    async def start(self, port=0):
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", self._told({}))
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/server_info", self._info)
        app.router.add_get("/weight_info", self._weight_info)
        app.router.add_post("/v1/completions", self._completions)
        for path in ("/pause", "/resume", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version"):
            app.router.add_post(path, self._order)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def stop(self):
        await self._runner.cleanup()

    def state(self):
        """A copy of the weights that it has now."""
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def _told(self, what):
        async def tell(request):
            return web.json_response(what)

        return tell

    async def _models(self, request):
        return web.json_response({"data": [{"id": self.name, "max_model_len": self.context}]})

    async def _info(self, request):
        if await self._fault("/server_info"):
            return web.json_response({"detail": "Not Found"}, status=404)
        config = {
            "model_config": {"logprobs_mode": self.logprobs_mode},
            "scheduler_config": {"max_num_seqs": self.rows},
        }
        return web.json_response({"vllm_config": config})

    async def _weight_info(self, request):
        self.looks += 1
        mark = self.mark
        await asyncio.sleep(self.latency_s)
        return web.json_response({"weight_version": mark})

    async def _fault(self, path):
        fault = self.faults.get(path)
        if fault == "hang":
            await asyncio.sleep(3600)
        return fault

    async def _order(self, request):
        body = await request.json()
        self.orders.append((request.path, body))
        if status := await self._fault(request.path):
            return web.json_response({"error": {"message": "planned fault"}}, status=status)
        reply = {}
        if request.path in ("/pause", "/resume"):
            self.paused = request.path == "/pause"
        elif request.path == "/update_weight_version":
            self.mark = body["new_version"]
        elif request.path == "/reset_prefix_cache":
            reply = {"success": self.faults.get("cache") is None}
        elif body["method"] == "reload_weights":
            self._reload(Path(body["kwargs"]["weights_path"]))
        return web.json_response(reply)

    def _reload(self, folder):
        before = copy.deepcopy(self.model)
        found = {}
        for path in folder.glob("*.safetensors"):
            found |= load_file(path)
        new = {name: tensor for name, tensor in found.items() if not (self.keeps and name.startswith(self.keeps))}
        if self.keeps == "lm_head" and self.model.config.tie_word_embeddings:
            self.model.lm_head.weight = torch.nn.Parameter(before.lm_head.weight.detach().clone())
        self.model.load_state_dict(new, strict=False)

    async def _completions(self, request):
        body = await request.json()
        self.requests.append(body)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
            if status := await self._fault("/v1/completions"):
                return web.json_response({"error": {"message": "planned fault"}}, status=status)
            return web.json_response({"model": self.name, "choices": [self.bend(self._choice(body))]})
        finally:
            self.in_flight -= 1

    @torch.no_grad()
    def _choice(self, body):
        ids, tokens, logps, reason = list(body["prompt"]), [], [], "length"
        draws = torch.Generator().manual_seed(body.get("seed") or 0)
        heat = body["temperature"] or 1.0
        while len(tokens) < body["max_tokens"]:
            logp = torch.log_softmax(self.model(torch.tensor([ids + tokens])).logits[0, -1].float() / heat, -1)
            drawn = torch.multinomial(logp.exp(), 1, generator=draws) if body["temperature"] else logp.argmax()
            tokens.append(int(drawn))
            logps.append(float(logp[tokens[-1]]))
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            if tokens[-1] in body["stop_token_ids"] or any(stop in text for stop in body["stop"]):
                reason = "stop"
                break
        told = {"token_logprobs": logps, "tokens": [str(t) for t in tokens]}
        return {
            "index": 0, "text": text, "finish_reason": reason,
            "token_ids": tokens, "prompt_token_ids": ids, "logprobs": told,
        }  # fmt: skip


async def _serve_forever(given):
    server = await TinyVLLM(given.model, name=given.served_model_name).start(given.port)
    print(server.url, flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--model")
    options.add_argument("--port", type=int)
    options.add_argument("--served-model-name", action="extend", nargs=1)
    known, _ = options.parse_known_args()
    known.served_model_name = known.served_model_name[-1]
    asyncio.run(_serve_forever(known))
