package lambda

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"cjj365.cc/bb/local/template"
)

// oneCPU is the memory, in MB, at which Lambda gives a function a whole CPU.
const oneCPU = 1769

// environment is what a function sees: the template's variables and Lambda's, and of this process's
// own only PATH, so that no proxy or profile of the developer changes what it does.
func environment(f template.Function, folder string, extra map[string]string) []string {
	env := maps.Clone(f.Environment)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, extra)
	maps.Copy(env, map[string]string{
		"AWS_LAMBDA_FUNCTION_NAME":        f.Name,
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": fmt.Sprint(f.Memory),
		"AWS_LAMBDA_FUNCTION_VERSION":     "$LATEST",
		"AWS_LAMBDA_INITIALIZATION_TYPE":  "on-demand",
		"AWS_REGION":                      "us-east-1",
		"AWS_DEFAULT_REGION":              "us-east-1",
		"AWS_ACCESS_KEY_ID":               AccessKeyID(f),
		"AWS_SECRET_ACCESS_KEY":           "local",
		"AWS_EC2_METADATA_DISABLED":       "true",
		"LAMBDA_TASK_ROOT":                folder,
		"_HANDLER":                        "bootstrap",
		"TZ":                              ":UTC",
		"PATH":                            os.Getenv("PATH"),
		"HOME":                            os.TempDir(),
		// Lambda kills a function that outgrows its memory; Go then collects earlier.
		"GOMEMLIMIT": fmt.Sprintf("%dMiB", f.Memory*9/10),
	})
	if f.Memory < oneCPU {
		env["GOMAXPROCS"] = "1"
	}
	list := make([]string, 0, len(env)+1)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	// The capacity is the length, so that appending for a process copies.
	return slices.Clip(list)
}

// AccessKeyID names a function to whatever it calls. DynamoDB Local takes letters and digits only,
// which is what a logical id is made of.
func AccessKeyID(f template.Function) string { return "LOCAL" + f.LogicalID }

func (f *function) folder() string { return filepath.Dir(f.bootstrap) }
