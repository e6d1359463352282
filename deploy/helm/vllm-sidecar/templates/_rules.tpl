{{- /* A threshold as it is set, or its default. Arguments: root, alert, name, default. */ -}}
{{- define "vllm-sidecar.threshold" -}}
{{- $root := index . 0 -}}
{{- dig (index . 1) (index . 2) (index . 3) $root.Values.prometheusRule.alerts -}}
{{- end -}}

{{- define "vllm-sidecar.percent" -}}
{{- printf "%v%%" (mulf (include "vllm-sidecar.threshold" . | float64) 100.0) -}}
{{- end -}}

{{- /* A duration such as 1m30s as the number of its seconds. */ -}}
{{- define "vllm-sidecar.seconds" -}}
{{- $milliseconds := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" (include "vllm-sidecar.threshold" .) -1 -}}
{{- $count := regexFind "[0-9]+" . | int64 -}}
{{- $sum = add $sum (mul $count (get $milliseconds (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{- if mod $sum 1000 -}}{{- divf $sum 1000.0 -}}{{- else -}}{{- div $sum 1000 -}}{{- end -}}
{{- end -}}

{{- /* A link of an alert with the address of the values, or nothing. Arguments: link, placeholder, address. */ -}}
{{- define "vllm-sidecar.link" -}}
{{- with index . 2 -}}
{{- replace (index $ 1) (. | trimSuffix "/") (index $ 0) -}}
{{- end -}}
{{- end -}}

{{- /* Groups of rules with all that the values set except for the thresholds, as YAML. Arguments: root, groups. */ -}}
{{- define "vllm-sidecar.groups" -}}
{{- $root := index . 0 -}}
{{- $values := $root.Values.prometheusRule -}}
{{- $runbooks := tpl ($values.runbookUrl | default "") $root -}}
{{- $groups := list -}}
{{- range $group := index . 1 -}}
{{- $rules := list -}}
{{- $alerts := 0 -}}
{{- range $rule := $group.rules -}}
{{- if not (hasKey $rule "alert") -}}
{{- $rules = append $rules $rule -}}
{{- else -}}
{{- $settings := get $values.alerts $rule.alert | default dict -}}
{{- if dig "enabled" true $settings -}}
{{- $alerts = add1 $alerts -}}
{{- $severity := $settings.severity | default $rule.labels.severity -}}
{{- $labels := dict "severity" (get $values.severities $severity | default $severity) -}}
{{- $labels = mustMergeOverwrite (deepCopy $rule.labels) $labels $values.alertLabels ($settings.labels | default dict) -}}
{{- $texts := deepCopy $rule.annotations -}}
{{- range $key, $link := dict "runbook_url" (list "https://runbooks.invalid" $runbooks) "dashboard_url" (list "https://grafana.invalid" $values.dashboardUrl) -}}
{{- $written := include "vllm-sidecar.link" (prepend $link (get $texts $key)) -}}
{{- if $written -}}{{- $_ := set $texts $key $written -}}{{- else -}}{{- $_ := unset $texts $key -}}{{- end -}}
{{- end -}}
{{- $texts = mustMergeOverwrite $texts $values.alertAnnotations ($settings.annotations | default dict) -}}
{{- $changed := set (set (deepCopy $rule) "labels" $labels) "annotations" $texts -}}
{{- with get $settings "for" -}}{{- $_ := set $changed "for" . -}}{{- end -}}
{{- $rules = append $rules $changed -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if or $alerts (not (include "vllm-sidecar.alerting" $group.rules)) -}}
{{- $groups = append $groups (set (deepCopy $group) "rules" $rules) -}}
{{- end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{- /* "true" if one of some rules is an alert. */ -}}
{{- define "vllm-sidecar.alerting" -}}
{{- range . -}}{{- if hasKey . "alert" -}}true{{- end -}}{{- end -}}
{{- end -}}

{{- /* A PrometheusRule. Arguments: root, suffix of its name, groups as YAML. */ -}}
{{- define "vllm-sidecar.prometheusRule" -}}
{{- $root := index . 0 -}}
{{- $values := $root.Values.prometheusRule -}}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "vllm-sidecar.fullname" $root }}{{ index . 1 }}
  namespace: {{ $values.namespace | default $root.Release.Namespace }}
  labels:
    {{- include "vllm-sidecar.labels" (list $root "rules") | nindent 4 }}
    {{- with mustMergeOverwrite (deepCopy $root.Values.operatorLabels) $values.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  groups:
    {{- index . 2 | nindent 4 }}
{{- end -}}
