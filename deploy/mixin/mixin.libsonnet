// Rules and dashboards as a mixin, from the generated files: take it from a checkout, or copy rules/ and dashboards/
// of your own thresholds beside it. Needs std.parseYaml: jsonnet 0.18 or newer.
{
  _vllmRules(text):: std.parseYaml(text).groups,

  prometheusAlerts+:: {
    groups+: $._vllmRules(importstr '../../rules/vllm-sidecar.rules.yml'),
  },
  prometheusRules+:: {
    groups+: $._vllmRules(importstr '../../rules/vllm-sidecar-slo.rules.yml'),
  },
  grafanaDashboards+:: {
    'vllm-engine.json': (import '../../dashboards/vllm-engine.json'),
    'vllm-features.json': (import '../../dashboards/vllm-features.json'),
    'vllm-gpu.json': (import '../../dashboards/vllm-gpu.json'),
    'vllm-incident.json': (import '../../dashboards/vllm-incident.json'),
    'vllm-kv-cache.json': (import '../../dashboards/vllm-kv-cache.json'),
    'vllm-overview.json': (import '../../dashboards/vllm-overview.json'),
    'vllm-sidecar.json': (import '../../dashboards/vllm-sidecar.json'),
    'vllm-slo.json': (import '../../dashboards/vllm-slo.json'),
  },
}
