package modcacheotel_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/modcacheotel"
	"github.com/modcache/modcache/modcacheprom"
)

func attributes(s sdktrace.ReadOnlySpan) map[attribute.Key]attribute.Value {
	all := map[attribute.Key]attribute.Value{}
	for _, a := range s.Attributes() {
		all[a.Key] = a.Value
	}
	return all
}

func TestTrace(t *testing.T) {
	cachetest.NeedsCompiler(t)
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	ctx, request := provider.Tracer("test").Start(t.Context(), "request")
	store := &storetest.Fake{}
	var asked trace.SpanContext // the span in which the store is asked
	store.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
		asked = trace.SpanContextFromContext(ctx)
		return store.Below().Get(ctx, key)
	}
	o := &modcache.Options{Trace: modcacheotel.Trace(provider), ExactKeys: true, Retain: cachetest.Forget}

	// run compiles the module, and returns the spans below "modcache module" and that.
	run := func(wasm []byte) (steps map[string]sdktrace.ReadOnlySpan, module sdktrace.ReadOnlySpan) {
		recorder.Reset()
		r, err := cachetest.New(t, store, o).NewRuntime(ctx, nil)
		require.NoError(t, err)
		defer r.Close(ctx)
		_, _ = r.Compile(ctx, modcache.NewModule(wasm).Named("plugin"))
		steps = map[string]sdktrace.ReadOnlySpan{}
		for _, s := range recorder.Ended() {
			if s.Name() == "modcache module" {
				module = s
			} else {
				steps[s.Name()] = s
			}
		}
		require.Equal(t, request.SpanContext().SpanID(), module.Parent().SpanID())
		for _, s := range steps {
			require.Equal(t, module.SpanContext().SpanID(), s.Parent().SpanID(), s.Name())
			require.Equal(t, "plugin", attributes(s)["modcache.name"].AsString(), s.Name())
		}
		return steps, module
	}

	steps, module := run(cachetest.Chain)
	require.Len(t, steps, 3)
	require.False(t, attributes(steps["modcache lookup"])["modcache.hit"].AsBool())
	require.Equal(t, steps["modcache lookup"].SpanContext().SpanID(), asked.SpanID(), "a store can go on from there")
	require.Positive(t, attributes(steps["modcache compile"])["modcache.code_bytes"].AsInt64())
	require.Contains(t, steps, "modcache load")
	require.Equal(t, modcache.Sum(cachetest.Chain).String(), attributes(module)["modcache.module"].AsString())
	require.EqualValues(t, len(cachetest.Chain), attributes(module)["modcache.wasm_bytes"].AsInt64())
	require.NotEmpty(t, attributes(module)["modcache.key"].AsString())

	steps, module = run(cachetest.Chain)
	require.Len(t, steps, 2, "a hit compiles nothing")
	require.True(t, attributes(steps["modcache lookup"])["modcache.hit"].AsBool())
	require.Equal(t, codes.Unset, module.Status().Code)

	store.OnGet = func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
		return nil, false, errors.New("down \xff" + strings.Repeat("x", 1<<20))
	}
	steps, module = run(cachetest.Chain)
	require.Equal(t, codes.Error, steps["modcache lookup"].Status().Code)
	require.Contains(t, steps["modcache lookup"].Status().Description, "down \uFFFD")
	for _, e := range steps["modcache lookup"].Events() {
		for _, a := range e.Attributes {
			require.True(t, utf8.ValidString(a.Value.Emit()), "%v", a)
			require.Less(t, len(a.Value.Emit()), 2<<10)
		}
	}
	require.Equal(t, codes.Unset, module.Status().Code, "a store fails no module")
	store.Heal()

	steps, module = run([]byte("\x00asm\x01\x00\x00\x00\x01\x01"))
	require.Equal(t, codes.Error, steps["modcache compile"].Status().Code)
	require.Equal(t, codes.Error, module.Status().Code)
}

// TestTraceNothing has nobody record: not even a provider.
func TestTraceNothing(t *testing.T) {
	ctx, end := modcacheotel.Trace(nil)(t.Context(), modcache.Step{Kind: modcache.StepLookup})
	require.NotNil(t, ctx)
	end(modcache.StepEnd{})
}

func TestProducer(t *testing.T) {
	layered := modcache.NewLayered(nil, modcache.Layer{Name: "memory", Store: modcache.NewMemory(nil), Timeout: time.Minute})
	defer layered.Close()
	c := cachetest.New(t, layered, &modcache.Options{EngineID: "test"})
	_, _, err := layered.Get(t.Context(), modcache.Key{1})
	require.NoError(t, err)
	producer, err := modcacheotel.Producer(c, &modcacheprom.Options{Labels: prometheus.Labels{"cache": "plugins"}})
	require.NoError(t, err)
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(producer))
	_ = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)) // registers the reader
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	data := map[string]metricdata.Aggregation{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			data[m.Name] = m.Data
		}
	}
	compiles := data["modcache_compiles_total"].(metricdata.Sum[float64])
	require.True(t, compiles.IsMonotonic)
	label, ok := compiles.DataPoints[0].Attributes.Value("cache")
	require.True(t, ok)
	require.Equal(t, "plugins", label.AsString())
	calls := data["modcache_layer_call_seconds"].(metricdata.Histogram[float64])
	var count uint64
	for _, p := range calls.DataPoints {
		count += p.Count
	}
	require.EqualValues(t, 1, count)

	_, err = modcacheotel.Producer(nil, nil)
	require.ErrorContains(t, err, "modcache: ")
}
