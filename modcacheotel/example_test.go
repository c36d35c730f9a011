package modcacheotel_test

import (
	"context"
	"fmt"
	"log"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcacheotel"
)

func Example() {
	ctx := context.Background()
	recorder := tracetest.NewSpanRecorder() // an exporter in earnest
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	cache, err := modcache.New(modcache.NewMemory(nil), &modcache.Options{Trace: modcacheotel.Trace(provider)})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	r, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)

	ctx, request := provider.Tracer("example").Start(ctx, "request")
	empty := []byte("\x00asm\x01\x00\x00\x00")
	if _, err := r.Instantiate(ctx, empty); err != nil {
		log.Fatal(err)
	}
	request.End()
	for _, s := range recorder.Ended() {
		if s.Name() == "modcache module" {
			fmt.Println(s.Parent().SpanID() == request.SpanContext().SpanID())
		}
	}
	// Output: true
}
