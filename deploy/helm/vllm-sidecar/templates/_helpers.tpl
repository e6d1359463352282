{{- define "vllm-sidecar.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "vllm-sidecar.fullname" -}}
{{- $name := include "vllm-sidecar.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- /* Labels of an object. Arguments: root, component. */ -}}
{{- define "vllm-sidecar.labels" -}}
{{- $root := index . 0 -}}
{{ include "vllm-sidecar.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: vllm-sidecar
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "vllm-sidecar.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "vllm-sidecar.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "vllm-sidecar.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- $version := ternary (printf "@%s" .Values.image.digest) (printf ":%s" $tag) (ne .Values.image.digest "") -}}
{{- printf "%s/%s%s" .Values.image.registry .Values.image.repository $version | quote -}}
{{- end -}}

{{- /* The restricted profile of the Pod Security Standards. */ -}}
{{- define "vllm-sidecar.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "vllm-sidecar.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* The probe restarts the container that it is about, which is never vLLM. */ -}}
{{- define "vllm-sidecar.liveness" -}}
httpGet:
  path: /-/healthy
  port: metrics
periodSeconds: 10
timeoutSeconds: 3
failureThreshold: 6
{{- end -}}

{{- /* Labels of every scraped series. Arguments: root, job. */ -}}
{{- define "vllm-sidecar.relabelings" -}}
{{- $root := index . 0 -}}
- targetLabel: job
  replacement: {{ index . 1 }}
- sourceLabels: [__meta_kubernetes_pod_node_name]
  regex: (.+)
  targetLabel: node
{{- with $root.Values.cluster }}
- targetLabel: cluster
  replacement: {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* Variables of a container that pushes over OTLP; the attributes of its pod come from the downward API. */ -}}
{{- define "vllm-sidecar.otlp" -}}
{{- if .Values.otlp.enabled }}
- name: VLLM_SIDECAR_OTLP_ENABLED
  value: "true"
- name: VLLM_SIDECAR_OTLP_URL
  value: {{ .Values.otlp.endpoint | quote }}
{{- range $key, $value := .Values.otlp.settings }}
- name: VLLM_SIDECAR_OTLP_{{ upper $key }}
  value: {{ $value | quote }}
{{- end }}
{{- with .Values.otlp.headersSecret }}
{{- if .name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
- name: K8S_POD
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: K8S_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: K8S_NODE
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- $attributes := list "k8s.pod.name=$(K8S_POD)" "k8s.namespace.name=$(K8S_NAMESPACE)" "k8s.node.name=$(K8S_NODE)" "k8s.container.name=vllm-sidecar" }}
{{- with .Values.cluster }}{{ $attributes = append $attributes (printf "k8s.cluster.name=%s" .) }}{{ end }}
{{- range $name, $value := .Values.otlp.resourceAttributes }}{{ $attributes = append $attributes (printf "%s=%s" $name $value) }}{{ end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ join "," $attributes | quote }}
{{- end }}
{{- end -}}

{{- /* Namespaces whose pods the gateways list, as JSON: the Kubernetes sources that use the pod's own token. */ -}}
{{- define "vllm-sidecar.namespaces" -}}
{{- $found := list -}}
{{- range dig "discovery" "kubernetes" list .Values.gateway.config -}}
{{- if not .url -}}
{{- $found = concat $found (.namespaces | default (list $.Release.Namespace)) -}}
{{- end -}}
{{- end -}}
{{- uniq $found | toJson -}}
{{- end -}}
