// Package manifests decodes the manifests in the documents with the types of Kubernetes' own API.
package manifests

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// decode has a manifest decoded as what it says it is. Unknown fields and keys that come twice are errors.
func decode(manifest string) (kind string, pod *corev1.PodSpec, err error) {
	var is struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal([]byte(manifest), &is); err != nil {
		return "", nil, err
	}
	strict := func(v any) error { return yaml.UnmarshalStrict([]byte(manifest), v) }
	switch kind = is.APIVersion + " " + is.Kind; kind {
	case "apps/v1 Deployment":
		var v appsv1.Deployment
		err = strict(&v)
		return kind, &v.Spec.Template.Spec, err
	case "batch/v1 Job":
		var v batchv1.Job
		err = strict(&v)
		return kind, &v.Spec.Template.Spec, err
	case "v1 Service":
		return kind, nil, strict(&corev1.Service{})
	case "v1 PersistentVolumeClaim":
		return kind, nil, strict(&corev1.PersistentVolumeClaim{})
	case " ": // a part of one, with the spec of a pod
		var v struct {
			Spec corev1.PodSpec `json:"spec"`
		}
		err = strict(&v)
		return "pod", &v.Spec, err
	}
	return kind, nil, os.ErrInvalid
}

func manifests(t *testing.T, file, section string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	_, after, found := strings.Cut(string(text), section)
	require.True(t, found)
	if section != "" {
		after, _, _ = strings.Cut(after, "\n## ")
	}
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(after, -1) {
		all = append(all, strings.Split(block[1], "\n---\n")...)
	}
	require.NotEmpty(t, all)
	return all
}

func TestManifests(t *testing.T) {
	kinds := map[string]int{}
	for _, m := range append(manifests(t, "../../docs/kubernetes.md", ""), manifests(t, "../../docs/deploy.md", "\n## Kubernetes\n")...) {
		kind, pod, err := decode(m)
		require.NoError(t, err, "%s\n%s", kind, m)
		kinds[kind]++
		if pod == nil {
			continue
		}
		volumes := map[string]bool{}
		for _, v := range pod.Volumes {
			volumes[v.Name] = true
		}
		require.NotEmpty(t, pod.Containers)
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			require.NotEmpty(t, c.Image)
			for _, v := range c.VolumeMounts {
				require.True(t, volumes[v.Name], "%s mounts %s", c.Name, v.Name)
			}
			if kind != "pod" {
				require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem, c.Name)
			}
		}
	}
	require.Equal(t, map[string]int{
		"apps/v1 Deployment": 2, "batch/v1 Job": 1, "v1 Service": 1, "v1 PersistentVolumeClaim": 1, "pod": 1,
	}, kinds)

	// The test would see what is wrong.
	for _, wrong := range []string{
		"apiVersion: v1\nkind: Service\nspec: {port: 80}",
		"apiVersion: v1\nkind: Service\nspec: {ports: [{port: x}]}",
		"apiVersion: v2\nkind: Service",
		"spec: {containers: [], containers: []}",
	} {
		_, _, err := decode(wrong)
		require.Error(t, err, wrong)
	}
}
